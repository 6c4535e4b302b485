"""Checks of BN-GRAD-7 where few values are left of many digits: the library's own gradients are rounded once.

With one to three values in a group the parts of dx cancel almost wholly. A library that differentiates the conversions
of x between two dtypes rounds each part, and then adds nothing but their roundoffs.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import bnspec
from bnspec_conformance.cases.case import Case, Outcome, RankInputs, RankOutcome, dtype_named
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

KINDS = ("plain", "masked", "ghost", "renorm", "statistics")
DTYPES = ("float16", "bfloat16", "float32")
_CHANNELS = 12


def named(values: int, dtype: str, kind: str) -> Case:
    """Return a case with that many values in each group and channel, in its dtype."""
    rng = np.random.default_rng([values, KINDS.index(kind)])
    renorm = bnspec.Renorm(form="paper", rmax=3.0, dmax=5.0) if kind == "renorm" else None
    ghost = values if kind == "ghost" else None
    config = bnspec.BatchNormConfig(
        axis=1, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=ghost, renorm=renorm
    )
    samples = values * (3 if ghost else 1) + (kind == "masked")
    x, dy, xdot = rng.standard_normal((3, samples, _CHANNELS)).astype(dtype_named(dtype))
    mask = (np.arange(samples) != 1)[:, None] if kind == "masked" else None
    gamma, beta, gamma_dot, beta_dot, mean, other = rng.standard_normal((6, _CHANNELS)).astype("float32")
    state = {"mean": mean, "var": 1 + other**2, "stddev": 1 + other**2} if renorm else None
    dmean = dvar = None
    if kind == "statistics":
        dmean, dvar = ((v,) for v in rng.standard_normal((2, 1, _CHANNELS)).astype("float32"))
    return Case(
        config=config,
        ranks=(RankInputs(x=x, dy=dy, mask=mask, xdot=xdot),),
        gamma=gamma,
        beta=beta,
        gamma_dot=gamma_dot,
        beta_dot=beta_dot,
        dmean=dmean,
        dvar=dvar,
        state=state,
        update=False,
    )


def names(subject: Subject) -> st.SearchStrategy[str]:
    """Names of cases such as "2 values, float16, masked"; fewest values first, in which the parts cancel most."""
    if subject.backend is not None and subject.backend.name not in ("torch", "jax"):
        raise NotSupported(f"{subject.name} does not differentiate")
    dtypes = [dtype for dtype in DTYPES if dtype in subject.scope.dtypes]
    if not dtypes:
        raise NotSupported(f"{subject.name} has no dtype of {', '.join(DTYPES)}")
    kinds = itertools.product((2, 3, 1), dtypes, KINDS)
    return st.sampled_from([f"{values} values, {dtype}, {kind}" for values, dtype, kind in kinds])


def operation(case: Case, backend: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Return the forward pass as a function of x, gamma and beta to y, mean and var, and its three arguments."""
    put, rank = backend.asarray, case.ranks[0]
    state = None if case.state is None else bnspec.RunningState(**{k: put(v) for k, v in case.state.items()})
    mask = None if rank.mask is None else put(rank.mask)

    def forward(x: Any, gamma: Any, beta: Any) -> tuple[Any, Any, Any]:
        y, stats, _ = bnspec.batch_norm(x, bnspec.Params(gamma, beta), case.config, state=state, mask=mask)
        return y, stats.mean, stats.var

    return forward, [put(v) for v in (rank.x, case.gamma, case.beta)]


def cotangents(case: Case, backend: Any, outputs: Any) -> tuple[Any, ...]:
    """dy, and the cotangents of the statistics or zeros, in the dtypes of the outputs."""
    given = (case.ranks[0].dy, *(0.0 if v is None else v[0] for v in (case.dmean, case.dvar)))
    made = []
    for value, output in zip(given, outputs, strict=True):
        dtype = dtype_named(str(output.dtype).rsplit(".", 1)[-1])
        made.append(backend.asarray(np.broadcast_to(np.asarray(value), tuple(output.shape)).astype(dtype)))
    return tuple(made)


def pulled_back(case: Case, backend: Any) -> list[Any]:
    """Return the library's own gradients with respect to x, gamma and beta."""
    forward, given = operation(case, backend)
    if backend.name == "torch":
        import torch

        leaves = [v.requires_grad_() for v in given]
        outputs = forward(*leaves)
        return list(torch.autograd.grad(outputs, leaves, cotangents(case, backend, outputs)))
    import jax

    outputs, pull = jax.vjp(forward, *given)
    return list(pull(cotangents(case, backend, outputs)))


@clauses("BN-GRAD-7")
@explore(names, share=0.5)
def test_library_rounds_once(t: Trial, name: str) -> None:
    """dx, dgamma and dbeta by the library are within the bounds of the explicit ones, for one to three values."""
    backend = t.needs_backend()
    values, dtype, kind = name.replace(" values", "").split(", ")
    case = named(int(values), dtype, kind)
    dx, dgamma, dbeta = (np.asarray(backend.to_numpy(v)) for v in pulled_back(case, backend))
    t.agree(case, "dx", "dgamma", "dbeta", outcome=Outcome((RankOutcome(dx=dx, dgamma=dgamma, dbeta=dbeta),)))
