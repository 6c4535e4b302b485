"""Bounds of inference: normalization by the running statistics as constants."""

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.declared import Arithmetics
from bnspec_conformance.bounds.elementwise import apart, centred
from bnspec_conformance.bounds.operands import epsilon, parameter, parameter_dtype
from bnspec_conformance.bounds.rounding import Approx, Arithmetic, limits
from bnspec_conformance.bounds.state import running_approx, state_approx
from bnspec_conformance.cases.case import Case, RankOutcome, as_float64
from bnspec_conformance.cases.layout import layouts

__all__ = ["inference_bounds"]

Floats = npt.NDArray[np.float64]


def inference_bounds(case: Case, within: Arithmetics, flush: bool, plain: bool = False) -> list[RankOutcome]:
    """Bounds for normalization by running statistics; NaN where nothing can be claimed."""
    assert case.state is not None
    one = Approx(np.ones(()), np.zeros(()), within.statistics)
    mean, var = running_approx(case.config, state_approx(case.state, one), case.state["mean"].dtype)
    istd = one / (var + epsilon(case, one)).root()
    gamma = parameter(case.gamma, case.config.scale, 1.0, case, one)
    beta = parameter(case.beta, case.config.center, 0.0, case, one)
    gamma_dot = parameter(case.gamma_dot, case.config.scale, 0.0, case, one)
    beta_dot = parameter(case.beta_dot, case.config.center, 0.0, case, one)
    a = gamma * istd
    tiny = 2.0 ** limits(case.ranks[0].x.dtype)[1] if flush else 0.0
    results = []
    for rank, layout in zip(case.ranks, layouts(case), strict=True):
        x = layout.fold(as_float64(rank.x))
        everything, depth = np.ones(x.shape, bool), np.asarray(x.shape[2] + 3.0)
        wide = (np.abs(x) + np.abs(mean.value)[..., None]) * plain
        c = (one.like(x, tiny) - mean.lifted()).off_by(2 * within.statistics.u * wide)
        dy = layout.optional(rank.dy)
        g, xdot = one.like(dy, tiny * (dy != 0)), one.like(layout.optional(rank.xdot), tiny)
        y = _sloped(a, c, mean, wide, within.y) + beta.into(within.y).lifted()
        product = istd * (g * c).sum(everything, depth)  # the sum of dy*(x - mean), not a difference of sums
        shift = g.sum(everything, depth)
        ydot = a.into(within.y).lifted() * xdot + _sloped(gamma_dot * istd, c, mean, wide, within.y)
        ydot = ydot + beta_dot.into(within.y).lifted()
        results.append(
            RankOutcome(
                y=layout.unfold(y.cast(rank.x.dtype, flush).error),
                dx=layout.unfold((a.into(within.dx).lifted() * g).cast(rank.x.dtype, flush).error),
                dgamma=product.cast(parameter_dtype(case, case.gamma), flush).error[0],
                dbeta=shift.cast(parameter_dtype(case, case.beta), flush).error[0],
                ydot=layout.unfold(ydot.cast(rank.x.dtype, flush).error),
            )
        )
    return results


def _sloped(slope: Approx, c: Approx, mean: Approx, wide: Floats, within: Arithmetic) -> Approx:
    """slope*(x - mean) in `within`; where that is not W, what the rounded mean misses is part of the shift."""
    product = slope.into(within).lifted() * centred(c, mean.value, wide, within)
    return product.off_by(apart(slope, mean.value, 0.0, within))
