"""Checks of SPEC.md, "Gradients"."""

import dataclasses
import math
from typing import Any

import numpy as np

from bnspec_conformance.bounds import hard_bound
from bnspec_conformance.bounds.declared import BEYOND_PROMISE, gradients_in_float32
from bnspec_conformance.cases.case import Case, Outcome, as_float64
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.forward.test_normalize import hard, hard_case
from bnspec_conformance.oracle import central_difference, direction, exact
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import NeverSupported, Trial


@clauses("BN-GRAD-1", "BN-GRAD-2", "BN-GRAD-3")
@explore(lambda s: strategies.cases(s, derivatives=True), share=1.5)
def test_vjp(t: Trial, case: Case) -> None:
    """dx, dgamma and dbeta are right within the bound."""
    t.agree(case, "dx", "dgamma", "dbeta")


@clauses("BN-GRAD-1", "BN-GRAD-2", "BN-GRAD-3", "BN-GRAD-4")
@explore(lambda s: strategies.cases(s, derivatives=True, ghost=True, mask=True, renorm=True, statistics=True))
def test_everything_together(t: Trial, case: Case) -> None:
    """The derivatives hold for ghost groups, masks and renorm at once."""
    t.agree(case, "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")


@clauses("BN-GRAD-4")
@explore(lambda s: strategies.cases(s, derivatives=True))
def test_jvp(t: Trial, case: Case) -> None:
    """ydot and the tangents of the statistics are right within the bound."""
    t.agree(case, "ydot", "mean_dot", "var_dot")


@clauses("BN-GRAD-6")
@explore(lambda s: strategies.cases(s, derivatives=True, statistics=True))
def test_cotangents_of_statistics(t: Trial, case: Case) -> None:
    """Cotangents of the returned mean and variance flow into dx."""
    t.agree(case, "dx")


@clauses("BN-GRAD-5")
@explore(lambda s: strategies.cases(s, derivatives=True, statistics=True, ghost=True, mask=True, plain=True))
def test_adjoint(t: Trial, case: Case) -> None:
    """The vjp is the transposed jvp: <dy, ydot> = <dx, xdot> + <dgamma, gamma_dot> + <dbeta, beta_dot>."""
    case = t.fit(case)
    outcome = t.run(case)
    reference = exact(case)
    allowed = t.bounds(case, reference)
    forward: list[float] = []
    backward: list[float] = []
    slack = 0.0
    for number, rank in enumerate(case.ranks):
        got, limit = outcome.ranks[number], allowed.ranks[number]
        pairs = [
            (rank.dy, got.ydot, limit.ydot, forward),
            (rank.xdot, got.dx, limit.dx, backward),
            (case.gamma_dot, got.dgamma, limit.dgamma, backward),
            (case.beta_dot, got.dbeta, limit.dbeta, backward),
        ]
        if case.dmean is not None and case.dvar is not None:
            pairs += [
                (case.dmean[number], got.mean_dot, limit.mean_dot, forward),
                (case.dvar[number], got.var_dot, limit.var_dot, forward),
            ]
        for weight, value, bound, side in pairs:
            if weight is None or value is None or bound is None:
                continue
            w = as_float64(weight)
            side.extend((w * as_float64(value)).ravel().tolist())
            slack += float(np.sum(np.abs(w) * bound))  # each factor is off by at most its bound
    if not np.isfinite([slack, *forward, *backward]).all():  # something overflows in x's dtype
        return
    difference = math.fsum(forward) - math.fsum(backward)
    # The products themselves round in float64, once each.
    slack += 2.0**-53 * math.fsum(map(abs, forward + backward))
    t.require(abs(difference) <= slack, f"<dy, ydot> - <dx, xdot> is {difference:.3g}, bound {slack:.3g}", case)


@clauses("BN-GRAD-9")
@explore(lambda s: strategies.cases(s, derivatives=True, statistics=True, ghost=True, plain=True), share=0.7)
def test_central_differences(t: Trial, case: Case) -> None:
    """dx along a random direction equals the difference quotient of the oracle's own loss."""
    case = t.fit(case)
    outcome, reference = t.run(case), exact(case)
    allowed = t.bounds(case, reference)
    seed = int(case.ranks[0].x.size)
    value, uncertain = central_difference(case, seed)
    along = direction(case, seed)
    t.agree(case, "dgamma", "dbeta", outcome=outcome, reference=reference, proves=())  # other clauses; here it is dx
    right = Outcome(
        tuple(
            dataclasses.replace(got, dgamma=want.dgamma, dbeta=want.dbeta)
            for got, want in zip(outcome.ranks, reference.ranks, strict=True)
        )
    )
    total, slack = _along(right, along, np.sum), _along(allowed, along, lambda v: np.sum(np.abs(v)))
    t.require(
        abs(total - value) <= slack + uncertain,
        f"the derivative is {total!r}, the difference quotient {value!r} within {slack + uncertain:.3g}",
        case,
    )


def _along(outcome: Outcome, along: Any, total: Any) -> float:
    result = 0.0
    for rank, tangent in zip(outcome.ranks, along.x, strict=True):
        assert rank.dx is not None
        result += float(total(as_float64(rank.dx) * tangent))
        for gradient, v in ((rank.dgamma, along.gamma), (rank.dbeta, along.beta)):
            if gradient is not None:
                result += float(total(as_float64(gradient) * v))
    return result


@clauses("BN-GRAD-8")
@explore(hard, share=3.0)
def test_hard_families(t: Trial, name: str) -> None:
    """dx stays within 8 float32 roundoffs of max|dx| where implementations lose digits."""
    case = t.subject.scope.arrange(hard_case(name))
    if gradients_in_float32(case.ranks[0].x.dtype, t.subject.arithmetic, t.subject.evaluation):
        raise NeverSupported(BEYOND_PROMISE)
    reference = exact(case).ranks[0]
    got = t.run(case).ranks[0]
    assert got.dx is not None and reference.dx is not None
    allowed = hard_bound(reference.dx, case.gamma, axis=case.config.axis, flush=t.subject.flushes)
    t.within(got.dx, reference.dx, allowed, "dx", case)
