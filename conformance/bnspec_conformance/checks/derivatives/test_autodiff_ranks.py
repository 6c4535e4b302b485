"""Checks of BN-GRAD-7 across ranks: torch differentiates through statistics that ranks share, twice."""

import dataclasses
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.cases.concatenate import concatenated
from bnspec_conformance.checks.derivatives.autodiff import library_derivatives
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


def wide(*sizes: int, **fields: Any) -> Case:
    """Return a case of ranks with these numbers of samples, in float64, whose loss is of y alone."""
    case = example(config(**fields), [(n, 3, 2) for n in sizes])
    ranks = tuple(RankInputs(r.x.astype("float64"), np.asarray(r.dy, "float64")) for r in case.ranks)
    gamma, beta = (np.asarray(v, "float64") for v in (case.gamma, case.beta))
    none: dict[str, Any] = dict.fromkeys(("dmean", "dvar", "gamma_dot", "beta_dot", "state"))
    return dataclasses.replace(case, ranks=ranks, gamma=gamma, beta=beta, **none)


@clauses("BN-GRAD-7")
@explore()
def test_ranks(t: Trial) -> None:
    """First and second derivatives on uneven and empty ranks are those of one process on all samples."""
    backend = t.needs_backend()
    pool: Any = getattr(t.subject, "pool", None)
    if backend.name != "torch" or pool is None:
        raise NotSupported("it has no ranks through which torch differentiates")
    import torch

    put, take = backend.asarray, backend.to_numpy
    for case in (wide(4, 2), wide(2, 0, 4), wide(2, 4, sync_weighting="rank")):

        def one(comm: Any, case: Case = case) -> tuple[RankOutcome, Array]:
            rank = case.ranks[comm.rank]
            given = [put(v).requires_grad_() for v in (rank.x, case.gamma, case.beta)]
            y = bnspec.batch_norm(given[0], bnspec.Params(*given[1:]), case.config, comm=comm)[0]
            first = torch.autograd.grad((y * put(rank.dy)).sum(), given, create_graph=True)
            (second,) = torch.autograd.grad((first[0] * put(rank.dy)).sum(), given[0])
            return RankOutcome(dx=take(first[0]), dgamma=take(first[1]), dbeta=take(first[2])), take(second)

        found = pool.run(len(case.ranks), one, deadline=60.0)
        t.agree(case, "dx", "dgamma", "dbeta", outcome=Outcome(tuple(first for first, _ in found)))
        if case.config.sync_weighting == "rank":  # no one process weighs like this
            continue
        whole, places = concatenated(case)
        dy = np.asarray(whole.ranks[0].dy)

        def loss(x: Any, whole: Case = whole, dy: Array = dy) -> Any:
            params = bnspec.Params(put(whole.gamma), put(whole.beta))
            return (bnspec.batch_norm(x, params, whole.config)[0] * put(dy)).sum()

        _, second = library_derivatives(backend, loss, whole.ranks[0].x, dy)
        apart = max(float(np.max(np.abs(got - second[place]), initial=0.0)) for (_, got), place in zip(found, places))
        near = apart <= 1e-12 * float(np.max(np.abs(second)))
        t.require(near, f"second derivatives differ by {apart} from those of one process", case)
