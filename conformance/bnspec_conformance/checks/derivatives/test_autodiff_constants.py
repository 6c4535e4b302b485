"""Checks of what automatic differentiation must not see: renorm's corrections, and NaN behind a mask."""

import dataclasses
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.bounds import bounds
from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.checks.derivatives.autodiff import double_precision, library_derivatives
from bnspec_conformance.checks.forward.test_masks import forced, holding
from bnspec_conformance.checks.state.test_renorm import neutral, without
from bnspec_conformance.oracle import exact
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


@clauses("BN-RENORM-2")
@explore()
def test_renorm(t: Trial) -> None:
    """The library's own first and second derivatives see no r and no d, where they are 1 and 0 but not clipped."""
    backend = t.needs_backend()
    for form in ("tensorpack", "paper"):
        case = neutral(form)
        found: list[tuple[Array, Array]] = []
        for each in (case, without(case)):
            assert each.gamma is not None and each.beta is not None and each.state is not None
            params = bnspec.Params(backend.asarray(each.gamma), backend.asarray(each.beta))
            state = bnspec.RunningState(**{k: backend.asarray(v) for k, v in each.state.items()})
            weights = backend.asarray(each.ranks[0].dy)

            def loss(
                x: Any, config: Any = each.config, params: Any = params, state: Any = state, w: Any = weights
            ) -> Any:
                return (w * bnspec.batch_norm(x, params, config, state=state)[0]).sum()

            assert each.ranks[0].xdot is not None
            found.append(library_derivatives(backend, loss, each.ranks[0].x, each.ranks[0].xdot))
        t.same(found[0][0], found[1][0], "the library's gradient", case)
        t.same(found[0][1], found[1][1], "the library's second derivative", case)


@clauses("BN-MASK-3", "BN-MASK-4")
@explore()
def test_masked_nonfinite(t: Trial) -> None:
    """The library's own gradient takes a masked NaN or infinity as the formula does; the second stays finite."""
    backend = t.needs_backend()
    for case in forced()[:2]:
        for each in (holding(case, [float("nan"), float("inf")]), case):
            given = each.ranks[0]
            assert given.dy is not None
            rank = RankInputs(given.x.astype("float64"), given.dy.astype("float64"), given.mask)
            own = dataclasses.replace(
                each, ranks=(rank,), dmean=None, dvar=None, gamma_dot=None, beta_dot=None, update=False
            )
            with double_precision(t):
                first, second = library_derivatives(
                    backend, loss_of(own, backend), rank.x, np.ones_like(rank.x), compiled=True
                )
            want = exact(own)
            assert want.ranks[0].dx is not None
            allowed = bounds(own, want, "float64", t.subject.flushes).ranks[0].dx
            assert allowed is not None
            about = ("BN-MASK-4",) if each is case else ("BN-MASK-3",)
            t.within(first, want.ranks[0].dx, allowed, "the library's dx", own, output="dx", proves=about)
            finite = bool(np.isfinite(second).all())
            t.require(finite, "the library's second derivative is not finite", own, proves=about)


def loss_of(case: Case, backend: Any) -> Any:
    """sum dy*y as a function of x in the backend's arrays, made when it is called."""

    def loss(x: Any) -> Any:
        put = backend.asarray
        y, _, _ = bnspec.batch_norm(
            x, bnspec.Params(put(case.gamma), put(case.beta)), case.config, mask=put(case.ranks[0].mask)
        )
        return (put(case.ranks[0].dy) * y).sum()

    return loss
