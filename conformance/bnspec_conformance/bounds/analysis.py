"""Error analysis behind `bounds`.

Model. All arithmetic of a call is done in one format W of roundoff u (float64, or float32 where a device has
no float64), and each result is cast once to its own dtype. The moments follow the pair algorithm, whose
errors are (n the joined count, R the range of the group, A its mean absolute deviation)::

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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.rounding import Approx, Arithmetic, arithmetic, growth, limits
from bnspec_conformance.bounds.state import FedGroup, advance_bounds, running_approx, state_approx
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.cases.layout import GroupLayout, layouts

__all__ = ["batch_bounds", "inference_bounds"]

Floats = npt.NDArray[np.float64]


@dataclass
class _Part:
    """One rank, folded to (G, C, L)."""

    layout: GroupLayout
    live: npt.NDArray[np.bool_]
    solid: npt.NDArray[np.bool_]  # finite, or unmasked
    c: Approx  # x - mean as it is computed
    w: Approx  # (G, 1): weight of an element in the joined mean
    dy: Approx
    xdot: Approx
    dtype: npt.DTypeLike  # of x


@dataclass
class _Joined:
    """The statistics of all groups and what follows from them; (G, C) unless said otherwise."""

    one: Approx  # makes numbers of W
    n: Floats  # (G, 1)
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

    def apart(self, slope: Approx) -> Floats:
        """Extra roundings of ``slope*(x - hi) - slope*lo``, whose terms are larger than their sum by E_hi."""
        return np.asarray((4 * self.one.within.u * np.abs(slope.value) * self.e_hi)[:, :, None])


def batch_bounds(
    case: Case, reference: Outcome, within: Arithmetic, flush: bool, plain: bool = False
) -> list[RankOutcome]:
    """Bounds for normalization by batch statistics; NaN where nothing can be claimed."""
    parts, joined = _moments(case, reference, within, flush, plain)
    beta = _parameter(case.beta, case.config.center, 0.0, case, joined.one)
    shift = joined.gamma * joined.d + beta
    fields: list[dict[str, Array]] = []
    for p in parts:
        y = (joined.a.lifted() * p.c + shift.lifted()).off_by(joined.apart(joined.a))
        fields.append({"y": p.layout.unfold(y.cast(p.dtype, flush).error), "count": np.zeros(len(joined.n))})
        fields[-1]["mean"] = joined.delta + within.u * np.abs(joined.mean)  # the pair's sum as one number
        fields[-1]["var"] = joined.var.error
    if case.has_vjp:
        _vjp(case, parts, joined, fields, flush)
    if case.has_jvp:
        _jvp(case, parts, joined, fields, flush)
    state = None
    if case.state is not None and case.update:
        one = joined.one
        fed = [
            FedGroup(int(n), one.like(mean, delta), one.like(var, error))
            for n, mean, delta, var, error in zip(
                joined.n[:, 0], joined.mean, joined.delta, joined.var.value, joined.var.error, strict=True
            )
        ]
        state = advance_bounds(case.config, case.state, fed, flush)
    return [RankOutcome(state=state, **f) for f in fields]


def _moments(
    case: Case, reference: Outcome, within: Arithmetic, flush: bool, plain: bool
) -> tuple[list[_Part], _Joined]:
    one, u, joins = Approx(np.ones(()), np.zeros(()), within), within.u, len(case.ranks) - 1
    first = reference.ranks[0]
    assert first.mean is not None
    assert first.var is not None
    assert first.count is not None
    mean, n = as_float64(first.mean), as_float64(first.count)[:, None]
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
        error = delta[:, :, None] + 2 * u * (np.abs(centred[i]) + e_hi[:, :, None]) + 2 * tiny
        if plain:
            error = error + 2 * u * (np.abs(np.where(solid[i], raw[i], 0.0)) + np.abs(mean)[:, :, None])
        else:
            error = np.where(spread[:, :, None] == 0, np.where(live[i], 2 * tiny, error), error)
        dy, xdot = layout.optional(rank.dy), layout.optional(rank.xdot)
        parts.append(
            _Part(
                layout,
                live[i],
                solid[i],
                one.like(
                    np.where(live[i] & (spread[:, :, None] == 0), 0.0, centred[i]), np.where(solid[i], error, 0.0)
                ),
                one.like(weights[i], 2 * u * weights[i]),
                one.like(dy, tiny * (dy != 0)),
                one.like(xdot, tiny * (xdot != 0)),
                rank.x.dtype,
            )
        )
    error = _total([(p.c * p.c).sum(p.live, n + 10.0 * joins + 2) * p.w for p in parts]).error
    # Squares of zeros do not underflow: nothing is left to err in a constant channel unless inputs are flushed.
    v = one.like(as_float64(first.var), np.where((n > 0) & ((spread > 0) | flush | plain), error, 0.0))
    istd = one / (v + _epsilon(case, one)).root()
    r, d = _corrections(case, one, mean, delta, istd)
    gamma = _parameter(case.gamma, case.config.scale, 1.0, case, one)
    return parts, _Joined(one, n, joins, mean, delta, e_hi, v, istd, r, d, gamma, gamma * r * istd)


def _vjp(case: Case, parts: list[_Part], joined: _Joined, fields: list[dict[str, Array]], flush: bool) -> None:
    one, a = joined.one, joined.a
    depth = joined.depth(sum(p.live.shape[2] for p in parts))
    sums = [p.dy.sum(np.ones(p.live.shape, bool), depth) for p in parts]
    products = [_product_sum(p.dy, p, p.solid, depth, joined) for p in parts]
    s1, t = _total(sums), _total(products)
    dmean, dvar = (
        one.like(np.sum([as_float64(q) for q in qs], axis=0) if qs else np.zeros_like(joined.mean))
        for qs in (case.dmean, case.dvar)
    )
    for i, p in enumerate(parts):
        slope = p.w * (one.like(2.0) * dvar - a * joined.istd * joined.istd * t)
        constant = p.w * (dmean - a * s1)
        pull = (slope.lifted() * p.c + constant.lifted()).off_by(joined.apart(slope))
        alone = a.lifted() * p.dy
        dx = (alone + pull).where(p.live, alone)
        fields[i]["dx"] = p.layout.unfold(dx.cast(p.dtype, flush).error)
        terms = joined.r * joined.istd * products[i] + joined.d * sums[i]
        for name, array, term in (("dgamma", case.gamma, terms), ("dbeta", case.beta, sums[i])):
            across = one.like(term.value.T, term.error.T)
            total = across.sum(np.ones(across.value.shape, bool), np.asarray(float(len(joined.n))))
            fields[i][name] = total.cast(_parameter_dtype(case, array), flush).error


def _jvp(case: Case, parts: list[_Part], joined: _Joined, fields: list[dict[str, Array]], flush: bool) -> None:
    one, a = joined.one, joined.a
    depth = joined.depth(joined.n)
    mean_dot = _total([p.w * p.xdot.sum(p.live, depth) for p in parts])
    h = _total([p.w * _product_sum(p.xdot, p, p.live, depth, joined) for p in parts])
    gamma_dot = _parameter(case.gamma_dot, case.config.scale, 0.0, case, one)
    beta_dot = _parameter(case.beta_dot, case.config.center, 0.0, case, one)
    curve, tilt = a * joined.istd * joined.istd * h, joined.r * joined.istd
    for i, p in enumerate(parts):
        ydot = a.lifted() * p.xdot - (a * mean_dot).lifted() + beta_dot.lifted()
        ydot = ydot + gamma_dot.lifted() * (tilt.lifted() * p.c + joined.d.lifted()) - curve.lifted() * p.c
        ydot = ydot.off_by(joined.apart(gamma_dot * tilt) + joined.apart(curve))
        fields[i]["ydot"] = p.layout.unfold(ydot.cast(p.dtype, flush).error)
        fields[i]["mean_dot"], fields[i]["var_dot"] = mean_dot.error, (one.like(2.0) * h).error


def inference_bounds(case: Case, within: Arithmetic, flush: bool, plain: bool = False) -> list[RankOutcome]:
    """Bounds for normalization by running statistics; NaN where nothing can be claimed."""
    assert case.state is not None
    one = Approx(np.ones(()), np.zeros(()), within)
    mean, var = running_approx(case.config, state_approx(case.state, one), case.state["mean"].dtype)
    istd = one / (var + _epsilon(case, one)).root()
    gamma = _parameter(case.gamma, case.config.scale, 1.0, case, one)
    beta = _parameter(case.beta, case.config.center, 0.0, case, one)
    gamma_dot = _parameter(case.gamma_dot, case.config.scale, 0.0, case, one)
    beta_dot = _parameter(case.beta_dot, case.config.center, 0.0, case, one)
    a = gamma * istd
    tiny = 2.0 ** limits(case.ranks[0].x.dtype)[1] if flush else 0.0
    results = []
    for rank, layout in zip(case.ranks, layouts(case), strict=True):
        x = layout.fold(as_float64(rank.x))
        everything, depth = np.ones(x.shape, bool), np.asarray(x.shape[2] + 3.0)
        c = one.like(x, tiny) - mean.lifted()
        if plain:
            c = c.off_by(2 * within.u * (np.abs(x) + np.abs(mean.value)[..., None]))
        dy = layout.optional(rank.dy)
        g, xdot = one.like(dy, tiny * (dy != 0)), one.like(layout.optional(rank.xdot), tiny)
        y = a.lifted() * c + beta.lifted()
        product = istd * (g * c).sum(everything, depth)  # the sum of dy*(x - mean), not a difference of sums
        total = g.sum(everything, depth)
        ydot = a.lifted() * xdot + gamma_dot.lifted() * istd.lifted() * c + beta_dot.lifted()
        results.append(
            RankOutcome(
                y=layout.unfold(y.cast(rank.x.dtype, flush).error),
                dx=layout.unfold((a.lifted() * g).cast(rank.x.dtype, flush).error),
                dgamma=product.cast(_parameter_dtype(case, case.gamma), flush).error[0],
                dbeta=total.cast(_parameter_dtype(case, case.beta), flush).error[0],
                ydot=layout.unfold(ydot.cast(rank.x.dtype, flush).error),
            )
        )
    return results


def _total(parts: list[Approx]) -> Approx:
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _product_sum(v: Approx, p: _Part, where: npt.NDArray[np.bool_], depth: Floats, joined: _Joined) -> Approx:
    """sum v*(x - mean), computed as sum v*(x - hi) - lo*sum v; the first sum's terms are larger by |v| E_hi."""
    mass = np.where(where, np.abs(v.value), 0.0).sum(axis=2)
    return (v * p.c).sum(where, depth).off_by(growth(depth, joined.one.within.u) * joined.e_hi * mass)


def _weights(case: Case, live: list[npt.NDArray[np.bool_]], n: Floats) -> list[Floats]:
    if case.config.sync_weighting == "count" or case.channels == 0:
        return [1.0 / np.maximum(n, 1)] * len(live)
    own = [m.sum(axis=2)[:, :1].astype(np.float64) for m in live]
    filled = np.maximum(np.sum([k > 0 for k in own], axis=0), 1)
    return [np.where(k > 0, 1.0 / (filled * np.maximum(k, 1)), 0.0) for k in own]


def _epsilon(case: Case, one: Approx) -> Approx:
    return one.like(case.config.epsilon, one.within.u * case.config.epsilon)


def _corrections(case: Case, one: Approx, mean: Floats, delta: Floats, istd: Approx) -> tuple[Approx, Approx]:
    """Renorm's r and d; clipping moves no two numbers apart, and nothing out of its interval."""
    renorm = case.config.renorm
    if renorm is None:
        return one.like(np.ones_like(mean)), one.like(np.zeros_like(mean))
    assert case.state is not None
    own = renorm.form == "tensorpack"
    centre = as_float64(case.state["renorm_mean" if own else "mean"])
    deviation = as_float64(case.state["renorm_stddev" if own else "stddev"])
    floor = _epsilon(case, one).root()
    s = one.like(np.maximum(deviation, floor.value), floor.error * (deviation <= floor.value + floor.error))
    r = one / istd / s
    r = one.like(np.clip(r.value, 1 / renorm.rmax, renorm.rmax), r.error + one.within.u)
    # the mean is a pair; it may be rounded to one number before the reference is taken away
    d = (one.like(mean, delta + one.within.u * np.abs(mean)) - one.like(centre)) / s
    d = one.like(np.clip(d.value, -renorm.dmax, renorm.dmax), d.error)
    return r.at_most(renorm.rmax - 1 / renorm.rmax), d.at_most(2 * renorm.dmax)


def _parameter(array: Array | None, present: bool, absent: float, case: Case, one: Approx) -> Approx:
    if array is None or not present:
        return one.like(np.full((1, case.channels), absent))
    value = as_float64(array)[None, :]
    down = arithmetic(array.dtype).u < one.within.u  # the parameter is cast down to W
    return one.like(value, one.within.u * np.abs(value) * down)


def _parameter_dtype(case: Case, array: Array | None) -> npt.DTypeLike:
    """Dtype of a parameter's gradient: the parameter's, else the statistics dtype."""
    if array is not None:
        return array.dtype
    return np.float64 if case.ranks[0].x.dtype == np.float64 else np.float32
