"""Error analysis behind `bounds`.

Model. Sums, statistics and every number of which a channel has one are computed in one format W of roundoff u
(float64, or float32 or two float32 where a device has no float64); the elementwise formulas of y and dx in W or in a
narrower format E, to which those numbers are then rounded; and each result is cast once to its own dtype. In E the mean
is one number, and what it misses goes into the shift while that is still in W. The moments follow the pair algorithm,
whose errors are (n the joined count, R the range of the group, A its mean absolute deviation)::

    K  = max x                                  exact
    hi = K + sum(x - K)/n                       |hi - mu| <= E_hi = 2u|mu| + g_{n+3} R;  exact when R = 0
    lo = sum(x - hi)/n                          hi is a number of W, so x - hi is off by u|x - hi| only:
                                                |hi + lo - mu| <= delta = g_{n+2} (A + E_hi)
    c  = (x - hi) - lo                          |c - (x - mu)| <= delta + 2u(|x - mu| + E_hi)

g_k = k u/(1 - k u) holds for a sum of k terms in any order, recursive, pairwise or blocked. n is used as it
stands, for float32 W too: neither XLA nor NumPy documents the order of a reduction, and NumPy's is recursive
along an outer axis. Joining ranks or groups (Chan) adds five roundings of a difference of means, at most R, per
join, to the mean, and ten, all relative, to m2. Everything after c is a short formula, and its bound is
computed by writing that formula in numbers that carry their own error (`bnspec_conformance.bounds.rounding`): var,
istd, renorm's corrections, y, the two gradient sums, dx, the tangents, and the running state.

The plain bound is that of a subject that keeps the mean in one number of W, so that it errs by E = g_{n+3} mean|x| +
2u|mu|, in x - mean and in everything that follows, and that may evaluate x*scale - mean*scale, which adds
2u(|x| + |mu|) to each x - mean. This bound grows with |mean|/std, as such an implementation's error does; the error of
the one-pass variance grows with its square and is still outside.

A subject that flushes subnormal numbers may also take an input for 0 that is smaller than the smallest
normal number of x's dtype; that much is added to x, dy and the tangent.
"""

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.declared import Arithmetics
from bnspec_conformance.bounds.moments import JoinedBounds, RankPart, moments
from bnspec_conformance.bounds.operands import parameter, parameter_dtype, total
from bnspec_conformance.bounds.rounding import Approx, Arithmetic, growth
from bnspec_conformance.bounds.state import FedGroup, advance_bounds
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64

__all__ = ["batch_bounds"]

Floats = npt.NDArray[np.float64]


def batch_bounds(
    case: Case, reference: Outcome, within: Arithmetics, flush: bool, plain: bool = False
) -> list[RankOutcome]:
    """Bounds for normalization by batch statistics; NaN where nothing can be claimed."""
    parts, joined = moments(case, reference, within.statistics, flush, plain)
    beta = parameter(case.beta, case.config.center, 0.0, case, joined.one)
    scale, shift = joined.a.into(within.y), (joined.gamma * joined.d + beta).into(within.y)
    fields: list[dict[str, Array]] = []
    counted = reference.ranks[0].count
    assert counted is not None
    for p in parts:
        y = scale.lifted() * joined.centred(p, within.y) + shift.lifted()
        y = y.off_by(joined.apart(joined.a, within.y))
        fields.append({"y": p.layout.unfold(y.cast(p.dtype, flush).error), "count": np.zeros(counted.shape)})
        fields[-1]["mean"] = joined.delta + within.statistics.u * np.abs(joined.mean)  # the pair's sum as one number
        fields[-1]["mean_low"], fields[-1]["var"] = joined.delta, joined.var.error
    if case.has_vjp:
        _vjp(case, parts, joined, fields, within.dx, flush)
    if case.has_jvp:
        _jvp(case, parts, joined, fields, within.y, flush)
    state = None
    if case.state is not None and case.update:
        state = _advance(case, case.state, joined, flush)
    return [RankOutcome(state=state, **f) for f in fields]


def _advance(case: Case, state: dict[str, Array], joined: JoinedBounds, flush: bool) -> dict[str, Array]:
    """Bounds of the state after the call; one channel at a time where each has counts of its own."""
    one, found = joined.one, []
    own = range(case.channels) if case.counts_channels else ()
    for part in [slice(c, c + 1) for c in own] or [slice(None)]:
        n = np.broadcast_to(joined.n, joined.mean.shape)[:, part] if own else joined.n
        rows = (n[:, 0], *(v[:, part] for v in (joined.mean, joined.delta, joined.var.value, joined.var.error)))
        fed = [
            FedGroup(int(n), one.like(mean, delta), one.like(var, error))
            for n, mean, delta, var, error in zip(*rows, strict=True)
        ]
        found.append(advance_bounds(case.config, {k: v[part] for k, v in state.items()}, fed, flush))
    return {name: np.concatenate([each[name] for each in found]) for name in state}


def _vjp(
    case: Case,
    parts: list[RankPart],
    joined: JoinedBounds,
    fields: list[dict[str, Array]],
    within: Arithmetic,
    flush: bool,
) -> None:
    one, a = joined.one, joined.a
    depth = joined.depth(sum(p.live.shape[2] for p in parts))
    sums = [p.dy.sum(np.ones(p.live.shape, bool), depth) for p in parts]
    products = [_product_sum(p.dy, p, p.solid, depth, joined) for p in parts]
    s1, t = total(sums), total(products)
    dmean, dvar = (
        one.like(np.sum([as_float64(q) for q in qs], axis=0) if qs else np.zeros_like(joined.mean))
        for qs in (case.dmean, case.dvar)
    )
    for i, p in enumerate(parts):
        slope = p.w * (one.like(2.0) * dvar - a * joined.istd * joined.istd * t)
        constant = p.w * (dmean - a * s1)
        pull = slope.into(within).lifted() * joined.centred(p, within) + constant.into(within).lifted()
        pull = pull.off_by(joined.apart(slope, within))
        alone = a.into(within).lifted() * p.dy
        dx = (alone + pull).where(p.live, alone)
        fields[i]["dx"] = p.layout.unfold(dx.cast(p.dtype, flush).error)
        terms = joined.r * joined.istd * products[i] + joined.d * sums[i]
        for name, array, term in (("dgamma", case.gamma, terms), ("dbeta", case.beta, sums[i])):
            across = one.like(term.value.T, term.error.T)
            summed = across.sum(np.ones(across.value.shape, bool), np.asarray(float(len(joined.n))))
            fields[i][name] = summed.cast(parameter_dtype(case, array), flush).error


def _jvp(
    case: Case,
    parts: list[RankPart],
    joined: JoinedBounds,
    fields: list[dict[str, Array]],
    within: Arithmetic,
    flush: bool,
) -> None:
    one, a = joined.one, joined.a
    depth = joined.depth(joined.n)
    mean_dot = total([p.w * p.xdot.sum(p.live, depth) for p in parts])
    h = total([p.w * _product_sum(p.xdot, p, p.live, depth, joined) for p in parts])
    gamma_dot = parameter(case.gamma_dot, case.config.scale, 0.0, case, one)
    beta_dot = parameter(case.beta_dot, case.config.center, 0.0, case, one)
    curve, tilt = a * joined.istd * joined.istd * h, joined.r * joined.istd
    scale, moved, raised, turned, held, bent, d = (
        own.into(within).lifted() for own in (a, a * mean_dot, beta_dot, gamma_dot, tilt, curve, joined.d)
    )
    for i, p in enumerate(parts):
        c = joined.centred(p, within)
        ydot = scale * p.xdot - moved + raised
        ydot = ydot + turned * (held * c + d) - bent * c
        ydot = ydot.off_by(joined.apart(gamma_dot * tilt, within) + joined.apart(curve, within))
        fields[i]["ydot"] = p.layout.unfold(ydot.cast(p.dtype, flush).error)
        fields[i]["mean_dot"], fields[i]["var_dot"] = mean_dot.error, (one.like(2.0) * h).error


def _product_sum(v: Approx, p: RankPart, where: npt.NDArray[np.bool_], depth: Floats, joined: JoinedBounds) -> Approx:
    """sum v*(x - mean), computed as sum v*(x - hi) - lo*sum v; the first sum's terms are larger by |v| E_hi."""
    mass = np.where(where, np.abs(v.value), 0.0).sum(axis=2)
    return (v * p.c).sum(where, depth).off_by(growth(depth, joined.one.within.u) * joined.e_hi * mass)
