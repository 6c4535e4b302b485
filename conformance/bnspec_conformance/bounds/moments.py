"""Bounds of the batch's moments, as `bounds.analysis` derives them, and of the numbers that follow from them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.elementwise import apart, centred
from bnspec_conformance.bounds.operands import epsilon, parameter, total
from bnspec_conformance.bounds.rounding import Approx, Arithmetic, growth, limits
from bnspec_conformance.cases.case import Case, Outcome, as_float64
from bnspec_conformance.cases.layout import GroupLayout, layouts

__all__ = ["JoinedBounds", "RankPart", "moments"]

Floats = npt.NDArray[np.float64]


@dataclass
class RankPart:
    """One rank, folded to (G, C, L)."""

    layout: GroupLayout
    live: npt.NDArray[np.bool_]
    solid: npt.NDArray[np.bool_]  # finite, or unmasked
    c: Approx  # x - mean as it is computed in W
    wide: Floats  # |x| + |mean| where y may be x*scale - mean*scale, else 0
    w: Approx  # (G, 1) or (G, C): weight of an element in the joined mean
    dy: Approx
    xdot: Approx
    dtype: npt.DTypeLike  # of x


@dataclass
class JoinedBounds:
    """The statistics of all groups and what follows from them; (G, C) unless said otherwise."""

    one: Approx  # makes numbers of W
    n: Floats  # (G, 1), or as they are where channels have counts of their own
    joins: int
    mean: Floats
    delta: Floats
    e_hi: Floats
    var: Approx
    istd: Approx
    r: Approx
    d: Approx
    gamma: Approx  # (1, C)
    a: Approx  # gamma*r*istd

    def depth(self, terms: float | Floats) -> Floats:
        """Roundings a term of a sum can meet: one per addition, ten per join, three to form it."""
        return np.asarray(terms + 10.0 * self.joins + 3)

    def centred(self, p: RankPart, within: Arithmetic) -> Approx:
        """Return x - mean as an elementwise formula in `within` has it."""
        return centred(p.c, self.mean, p.wide, within)

    def apart(self, slope: Approx, within: Arithmetic) -> Floats:
        """Return the extra roundings of such a formula that multiplies by `slope`."""
        return apart(slope, self.mean, self.e_hi, within)


def moments(
    case: Case, reference: Outcome, within: Arithmetic, flush: bool, plain: bool
) -> tuple[list[RankPart], JoinedBounds]:
    """Analyse the moments of a case; return the part of each rank and the joined statistics."""
    one, u, joins = Approx(np.ones(()), np.zeros(()), within), within.u, len(case.ranks) - 1
    first = reference.ranks[0]
    assert first.mean is not None
    assert first.var is not None
    assert first.count is not None
    mean, n = as_float64(first.mean), as_float64(first.count)
    n = n if n.ndim == 2 else n[:, None]
    plan = list(layouts(case))
    tiny = 2.0 ** limits(case.ranks[0].x.dtype)[1] if flush else 0.0
    raw = [layout.fold(as_float64(r.x)) for r, layout in zip(case.ranks, plan, strict=True)]
    live = [
        layout.fold(np.ones(layout.shape, bool) if r.mask is None else np.asarray(r.mask, bool))
        for r, layout in zip(case.ranks, plan, strict=True)
    ]
    weights = _weights(case, live, n)
    high = np.max([np.max(x, axis=2, initial=-np.inf, where=m) for m, x in zip(live, raw, strict=True)], axis=0)
    low = np.min([np.min(x, axis=2, initial=np.inf, where=m) for m, x in zip(live, raw, strict=True)], axis=0)
    spread = np.where(n > 0, high - low, 0.0)
    solid = [m | np.isfinite(x) for m, x in zip(live, raw, strict=True)]
    centred = [np.where(f, x - mean[:, :, None], 0.0) for f, x in zip(solid, raw, strict=True)]
    deviation = np.zeros_like(mean)
    for m, z, w in zip(live, centred, weights, strict=True):
        deviation = deviation + np.where(m, np.abs(z), 0.0).sum(axis=2) * w
    e_hi = np.where(spread == 0, 0.0, 2 * u * np.abs(mean) + growth(n + 3, u) * spread)
    e_hi = np.where(n * spread > within.largest, np.inf, e_hi)
    delta = growth(n + 2, u) * (deviation * (spread > 0) + e_hi) + 5 * joins * u * (spread + e_hi)
    delta = delta + (1 + joins) * within.eta * (spread > 0)  # the quotients may underflow
    if plain:
        size = np.zeros_like(mean)
        for m, x, w in zip(live, raw, weights, strict=True):
            size = size + np.where(m, np.abs(x), 0.0).sum(axis=2) * w
        e_hi = growth(n + 3 + 5 * joins, u) * size + 2 * u * np.abs(mean)
        delta = e_hi
    delta, e_hi = np.where(n > 0, delta + tiny, 0.0), np.where(n > 0, e_hi, 0.0)
    parts = []
    for i, (rank, layout) in enumerate(zip(case.ranks, plan, strict=True)):
        wide = (np.abs(np.where(solid[i], raw[i], 0.0)) + np.abs(mean)[:, :, None]) * plain
        error = delta[:, :, None] + 2 * u * (np.abs(centred[i]) + e_hi[:, :, None] + wide) + 2 * tiny
        if not plain:
            error = np.where(spread[:, :, None] == 0, np.where(live[i], 2 * tiny, error), error)
        dy, xdot = layout.optional(rank.dy), layout.optional(rank.xdot)
        parts.append(
            RankPart(
                layout,
                live[i],
                solid[i],
                one.like(
                    np.where(live[i] & (spread[:, :, None] == 0), 0.0, centred[i]), np.where(solid[i], error, 0.0)
                ),
                wide,
                one.like(weights[i], 2 * u * weights[i]),
                one.like(dy, tiny * (dy != 0)),
                one.like(xdot, tiny * (xdot != 0)),
                rank.x.dtype,
            )
        )
    error = total([(p.c * p.c).sum(p.live, n + 10.0 * joins + 2) * p.w for p in parts]).error
    # Squares of zeros do not underflow: nothing is left to err in a constant channel unless inputs are flushed.
    v = one.like(as_float64(first.var), np.where((n > 0) & ((spread > 0) | flush | plain), error, 0.0))
    istd = one / (v + epsilon(case, one)).root()
    r, d = _corrections(case, one, mean, delta, istd)
    gamma = parameter(case.gamma, case.config.scale, 1.0, case, one)
    return parts, JoinedBounds(one, n, joins, mean, delta, e_hi, v, istd, r, d, gamma, gamma * r * istd)


def _weights(case: Case, live: list[npt.NDArray[np.bool_]], n: Floats) -> list[Floats]:
    if case.config.sync_weighting == "count" or case.channels == 0:
        return [1.0 / np.maximum(n, 1)] * len(live)
    own = [m.sum(axis=2).astype(np.float64) for m in live]
    filled = np.maximum(np.sum([k > 0 for k in own], axis=0), 1)
    return [np.where(k > 0, 1.0 / (filled * np.maximum(k, 1)), 0.0) for k in own]


def _corrections(case: Case, one: Approx, mean: Floats, delta: Floats, istd: Approx) -> tuple[Approx, Approx]:
    """Renorm's r and d; clipping moves no two numbers apart, and nothing out of its interval."""
    renorm = case.config.renorm
    if renorm is None:
        return one.like(np.ones_like(mean)), one.like(np.zeros_like(mean))
    assert case.state is not None
    own = renorm.form == "tensorpack"
    centre = as_float64(case.state["renorm_mean" if own else "mean"])
    deviation = as_float64(case.state["renorm_stddev" if own else "stddev"])
    floor = epsilon(case, one).root()
    s = one.like(np.maximum(deviation, floor.value), floor.error * (deviation <= floor.value + floor.error))
    r = one / istd / s
    r = one.like(np.clip(r.value, 1 / renorm.rmax, renorm.rmax), r.error + one.within.u)
    # the mean is a pair; it may be rounded to one number before the reference is taken away
    d = (one.like(mean, delta + one.within.u * np.abs(mean)) - one.like(centre)) / s
    d = one.like(np.clip(d.value, -renorm.dmax, renorm.dmax), d.error)
    return r.at_most(renorm.rmax - 1 / renorm.rmax), d.at_most(2 * renorm.dmax)
