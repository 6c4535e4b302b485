r"""How far a right answer may lie from the exact one: bounds computed from the case, never chosen.

Model. All arithmetic of a call is done in one format W of roundoff u (float64, or float32 where a device has
no float64), and each result is cast once to its own dtype. The moments follow the pair algorithm, whose
errors are (n the joined count, R the range of the group, A its mean absolute deviation)::

    K  = max x                                  exact
    hi = K + sum(x - K)/n                       |hi - mu| <= E_hi = 2u|mu| + g_{n+3} R
    lo = sum(x - hi)/n                          hi is a number of W, so x - hi is off by u|x - hi| only:
                                                |hi + lo - mu| <= delta = g_{n+2} (A + E_hi)
    c  = (x - hi) - lo                          |c - (x - mu)| <= delta + 2u(|x - mu| + E_hi)

g_k = k u/(1 - k u) holds for a sum of k terms in any order, recursive, pairwise or blocked. n is used as it
stands, for float32 W too: neither XLA nor NumPy documents the order of a reduction, and NumPy's is recursive along
an outer axis. Joining ranks or groups (Chan) adds five roundings of a difference of means, at most
R, per join. Everything after c is a short formula, and its bound is computed by writing that formula in numbers that
carry their own error (`bnspec_conformance._rounding`): var, istd, renorm's corrections, y, the two
gradient sums, dx, the tangents, and every averaging of the running state.

For float32 x and float64 W all this is of the order of n 2**-53, so the bound of y is one float32 roundoff of y.
The one-pass variance E[x^2] - E[x]^2 in float32 errs by about 2**-24 (mean/std)^2 relative to var, against a bound of
about 5 n 2**-24 for float32 W: it is rejected as soon as (mean/std)^2 exceeds some multiple of n.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bnspec_conformance._layout import Layout, layouts
from bnspec_conformance._rounding import Approx, Arithmetic, arithmetic, cast_error, limits
from bnspec_conformance._state_bounds import FedGroup, advance_bounds, running_approx, state_approx
from bnspec_conformance.case import Array, Case, Outcome, RankOutcome, as_float64

__all__ = ["bounds", "hard_bound", "ulps", "violations"]

Floats = npt.NDArray[np.float64]


def bounds(
    case: Case, reference: Outcome, arithmetic_dtype: Literal["float64", "float32"] = "float64", flush: bool = False
) -> Outcome:
    """Absolute error bounds of everything in an outcome.

    Parameters
    ----------
    case : Case
    reference : Outcome
        The exact answer, of `oracle.exact` (or `oracle.float64` where float64's error does not matter).
    arithmetic_dtype : {"float64", "float32"}
        What W is.
    flush : bool
        Whether the subject takes and makes subnormal numbers as 0.

    Returns
    -------
    Outcome
        The fields and shapes of `reference`: y, dx, ydot elementwise for x's dtype; dgamma and dbeta for the
        parameter's dtype; state for the state's dtype; mean, var and their tangents for W; counts 0. Infinite
        where W overflows on the way.
    """
    within = arithmetic(arithmetic_dtype, flush)
    if within.u > arithmetic("float32").u / 2 and case.ranks[0].x.dtype == np.float64:
        raise ValueError("float64 input needs float64 arithmetic [BN-PREC-1]")
    with np.errstate(all="ignore"):
        result = _inference(case, within, flush) if case.mode == "inference" else _batch(case, reference, within, flush)
    return Outcome(tuple(_claimed(b, r) for b, r in zip(result, reference.ranks, strict=True)))


def violations(
    got: Array, reference: Floats, bound: Floats, dtype: npt.DTypeLike, *, any_nonfinite: bool = False
) -> npt.NDArray[np.bool_]:
    """Where a result is outside its bound.

    Parameters
    ----------
    got, reference, bound : array
        One shape.
    dtype : dtype
        Of the result. A reference beyond its largest number by more than the bound must come out infinite, with the
        reference's sign; one that is nearer may.
    any_nonfinite : bool
        Whether an infinity will do where the reference is NaN (statistics); otherwise it must be NaN too.

    Returns
    -------
    array of bool
    """
    value = as_float64(got)
    digits, _, high = limits(dtype)
    top = (2.0 - 2.0**-digits) * 2.0**high
    with np.errstate(all="ignore"):
        overflow = top * (1 + 2.0 ** -(digits + 2)) if top < 1e300 else np.inf  # halfway to the number that is missing
        right_side = np.isinf(value) & (np.sign(value) == np.sign(reference))
        inside = np.abs(value - reference) <= bound
        inside |= right_side & (np.abs(reference) + bound >= overflow)
        inside &= ~(np.isfinite(value) & (np.abs(reference) - bound > max(overflow, top)))
        inside |= right_side & np.isinf(reference)
        inside |= np.isposinf(bound)
        lost = ~np.isfinite(value) if any_nonfinite else np.isnan(value)
    return np.asarray(np.where(np.isnan(reference), ~lost, ~inside))


def hard_bound(reference: Floats, gamma: Array | None, axis: int = -1) -> Floats:
    """Eight float32 roundoffs of the channel's largest |reference|, the bound of the hard families.

    Parameters
    ----------
    reference : array
        Exact y or dx.
    gamma : array or None
        Shape (C,); |gamma| (1 if None) takes the place of the largest value in a channel that is 0 throughout.
    axis : int
        Channel axis.

    Returns
    -------
    array
        reference's rank, C along axis and 1 elsewhere. Half the smallest float32 subnormal is added, since no float32 can
        be nearer to every real number.
    """
    others = tuple(i for i in range(reference.ndim) if i != axis % reference.ndim)
    size = np.max(np.abs(reference), axis=others, keepdims=True, initial=0.0)
    instead = np.ones(size.size) if gamma is None else np.abs(as_float64(gamma))
    return np.asarray(8 * 2.0**-24 * np.where(size == 0, instead.reshape(size.shape), size) + 2.0**-150)


def ulps(error: npt.ArrayLike, reference: npt.ArrayLike, dtype: npt.DTypeLike) -> Floats:
    """An error in units of the last place that a dtype has at the reference."""
    digits, low, high = limits(dtype)
    _, exponent = np.frexp(np.abs(np.asarray(reference, dtype=np.float64)))
    binade = np.where(np.asarray(reference) == 0, low, np.clip(exponent - 1, low, high))
    with np.errstate(over="ignore"):
        return np.asarray(np.ldexp(np.abs(np.asarray(error, dtype=np.float64)), digits - binade))


def _claimed(bound: RankOutcome, reference: RankOutcome) -> RankOutcome:
    """Infinite where the analysis gave none, absent where the reference is."""

    def clean(b: Array | None, r: Array | None) -> Array | None:
        return None if r is None or b is None else np.where(np.isnan(b), np.inf, b)

    fields = ("y", "count", "mean", "var", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")
    state = None
    if reference.state is not None and bound.state is not None:
        state = {k: np.where(np.isnan(v), np.inf, v) for k, v in bound.state.items()}
    cleaned = {name: clean(getattr(bound, name), getattr(reference, name)) for name in fields}
    return RankOutcome(state=state, **cleaned)


@dataclass
class _Part:
    """One rank, folded to (G, C, L)."""

    layout: Layout
    live: npt.NDArray[np.bool_]
    solid: npt.NDArray[np.bool_]
    c: Approx  # x - mean as it is computed
    w: Approx  # (G, 1): weight of an element in the joined mean
    dy: Approx
    xdot: Approx


def _batch(case: Case, reference: Outcome, within: Arithmetic, flush: bool) -> list[RankOutcome]:
    one = Approx(np.ones(()), np.zeros(()), within)
    u, joins = within.u, len(case.ranks) - 1
    first = reference.ranks[0]
    assert first.mean is not None and first.var is not None and first.count is not None
    mean, var, n = as_float64(first.mean), as_float64(first.var), as_float64(first.count)[:, None]
    plan = list(layouts(case))
    tiny = 2.0 ** limits(case.ranks[0].x.dtype)[1] if flush else 0.0  # what flushing an input can change
    raw = [layout.fold(as_float64(r.x)) for r, layout in zip(case.ranks, plan, strict=True)]
    live = []
    for rank, layout in zip(case.ranks, plan, strict=True):
        mask = np.ones(layout.shape, bool) if rank.mask is None else np.asarray(rank.mask, bool)
        live.append(layout.fold(mask))
    own = [m.sum(axis=2)[:, :1].astype(np.float64) if m.shape[1] else np.zeros((len(m), 1)) for m in live]
    weights = _weights(case, own, n)
    high = np.max([np.where(m, x, -np.inf).max(axis=2, initial=-np.inf) for m, x in zip(live, raw, strict=True)], axis=0)
    low = np.min([np.where(m, x, np.inf).min(axis=2, initial=np.inf) for m, x in zip(live, raw, strict=True)], axis=0)
    spread = np.where(n > 0, high - low, 0.0)
    centred = [np.where(m | np.isfinite(x), x - mean[:, :, None], 0.0) for m, x in zip(live, raw, strict=True)]
    deviation = np.asarray(
        sum(np.where(m, np.abs(z), 0.0).sum(axis=2) * w for m, z, w in zip(live, centred, weights, strict=True))
    )
    e_hi = 2 * u * np.abs(mean) + _gamma(n + 3, u) * spread
    e_hi = np.where(n * spread > within.largest, np.inf, e_hi)
    delta = _gamma(n + 2, u) * (deviation + e_hi) + 5 * joins * u * (spread + e_hi) + tiny
    delta, e_hi = np.where(n > 0, delta, 0.0), np.where(n > 0, e_hi, 0.0)
    parts = []
    for i, layout in enumerate(plan):
        error = delta[:, :, None] + 2 * u * (np.abs(centred[i]) + e_hi[:, :, None]) + 2 * tiny
        solid = live[i] | np.isfinite(raw[i])
        dy, xdot = layout.optional(case.ranks[i].dy), layout.optional(case.ranks[i].xdot)
        parts.append(
            _Part(
                layout,
                live[i],
                solid,
                one.like(centred[i], np.where(solid, error, 0.0)),
                one.like(weights[i], 2 * u * weights[i]),
                one.like(dy, tiny * (dy != 0)),
                one.like(xdot, tiny * (xdot != 0)),
            )
        )
    depth = n + 10 * joins + 2
    squares = [(p.c * p.c).sum(p.live, depth) * p.w for p in parts]
    v = _total(squares)
    v = one.like(var, np.where(n > 0, v.error, 0.0))
    eps = one.like(np.asarray(case.config.epsilon), u * case.config.epsilon)
    istd = one / (v + eps).root()
    r, d = _corrections(case, one, mean, delta, istd)
    gamma, beta = _parameter(case.gamma, case.config.scale, 1.0, case, one), _parameter(
        case.beta, case.config.center, 0.0, case, one
    )
    a = gamma * r * istd
    results = [RankOutcome() for _ in parts]
    shift = gamma * d + beta
    fields: list[dict[str, Array]] = [{} for _ in parts]
    loose = 4 * u * e_hi[:, :, None]  # (x - hi) and lo are scaled apart, so roundings see |x - mean| + E_hi
    for i, p in enumerate(parts):
        y = (a.lifted() * p.c + shift.lifted()).off_by(np.abs(a.value[:, :, None]) * loose)
        fields[i] = {"y": p.layout.unfold(y.cast(case.ranks[i].x.dtype, flush).error)}
        fields[i]["mean"], fields[i]["var"] = delta + u * np.abs(mean), v.error
        fields[i]["count"] = np.zeros(len(n))
    size = np.asarray(sum(p.live.shape[2] for p in parts), dtype=np.float64)
    everything = [np.ones(p.live.shape, bool) for p in parts]
    if case.has_vjp:
        depth_all = size + 10 * joins + 3
        sums = [p.dy.sum(m, depth_all) for p, m in zip(parts, everything, strict=True)]
        fine = [p.dy.sum(p.solid, depth_all) for p in parts]
        products = []
        for p in parts:
            mass = np.where(p.solid, np.abs(p.dy.value), 0.0).sum(axis=2)
            products.append((p.dy * p.c).sum(p.solid, depth_all).off_by(_gamma(depth_all, u) * e_hi * mass))
        s1, t = _total(sums), _total(products)
        dmean, dvar = (
            one.like(np.asarray(sum(as_float64(q) for q in qs) if qs else np.zeros_like(mean)))
            for qs in (case.dmean, case.dvar)
        )
        for i, p in enumerate(parts):
            slope = p.w * (one.like(2.0) * dvar - a * istd * istd * t)
            constant = p.w * (dmean - a * s1)
            pull = slope.lifted() * p.c + constant.lifted()
            pull = pull.off_by(np.abs(slope.value[:, :, None]) * loose)
            alone = a.lifted() * p.dy
            dx = (alone + pull).where(p.live, alone)
            fields[i]["dx"] = p.layout.unfold(dx.cast(case.ranks[i].x.dtype, flush).error)
            terms = r * istd * products[i] + d * fine[i]
            groups = np.asarray(len(n), dtype=np.float64)
            for name, array, term in (("dgamma", case.gamma, terms), ("dbeta", case.beta, sums[i])):
                across = one.like(term.value.T, term.error.T)
                total = across.sum(np.ones(across.value.shape, bool), groups)
                fields[i][name] = total.cast(_parameter_dtype(case, array), flush).error
    if case.has_jvp:
        depth_all = n + 10 * joins + 3
        mean_dot = _total([p.w * p.xdot.sum(p.live, depth_all) for p in parts])
        moments = []
        for p in parts:
            mass = np.where(p.live, np.abs(p.xdot.value), 0.0).sum(axis=2)
            moments.append(p.w * (p.xdot * p.c).sum(p.live, depth_all).off_by(_gamma(depth_all, u) * e_hi * mass))
        h = _total(moments)
        gamma_dot = _parameter(case.gamma_dot, case.config.scale, 0.0, case, one)
        beta_dot = _parameter(case.beta_dot, case.config.center, 0.0, case, one)
        curve, tilt = a * istd * istd * h, r * istd
        for i, p in enumerate(parts):
            flat = a.lifted() * p.xdot - (a * mean_dot).lifted() + beta_dot.lifted()
            bent = gamma_dot.lifted() * (tilt.lifted() * p.c + d.lifted()) - curve.lifted() * p.c
            bent = bent.off_by((np.abs((gamma_dot * tilt).value) + np.abs(curve.value))[:, :, None] * loose)
            ydot = (flat + bent).where(p.solid, flat)
            fields[i]["ydot"] = p.layout.unfold(ydot.cast(case.ranks[i].x.dtype, flush).error)
            fields[i]["mean_dot"], fields[i]["var_dot"] = mean_dot.error, (one.like(2.0) * h).error
    state = None
    if case.state is not None and case.update:
        fed = [
            FedGroup(int(n[g, 0]), one.like(mean[g], delta[g]), one.like(var[g], v.error[g])) for g in range(len(n))
        ]
        state = advance_bounds(case.config, case.state, fed, flush)
    results = [RankOutcome(state=state, **f) for f in fields]
    return results


def _inference(case: Case, within: Arithmetic, flush: bool) -> list[RankOutcome]:
    assert case.state is not None
    one = Approx(np.ones(()), np.zeros(()), within)
    state = state_approx(case.state, one)
    mean, var = running_approx(case.config, state)
    eps = one.like(np.asarray(case.config.epsilon), within.u * case.config.epsilon)
    istd = one / (var + eps).root()
    gamma = _parameter(case.gamma, case.config.scale, 1.0, case, one)
    beta = _parameter(case.beta, case.config.center, 0.0, case, one)
    gamma_dot = _parameter(case.gamma_dot, case.config.scale, 0.0, case, one)
    beta_dot = _parameter(case.beta_dot, case.config.center, 0.0, case, one)
    a = gamma * istd
    tiny = 2.0 ** limits(case.ranks[0].x.dtype)[1] if flush else 0.0
    results = []
    for rank, layout in zip(case.ranks, layouts(case), strict=True):
        x, everything = layout.fold(as_float64(rank.x)), np.ones(layout.fold(rank.x).shape, bool)
        c = one.like(x, tiny) - mean.lifted()
        dy = layout.optional(rank.dy)
        g, xdot = one.like(dy, tiny * (dy != 0)), one.like(layout.optional(rank.xdot), tiny)
        y = a.lifted() * c + beta.lifted()
        depth = np.asarray(x.shape[2] + 3.0)
        total = g.sum(everything, depth)
        # sum dy*x - mean*sum dy would cancel; sum dy*(x - mean) is what the contract asks for
        product = istd * (g * c).sum(everything, depth)
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


def _gamma(additions: Floats, u: float) -> Floats:
    nu = np.asarray(additions) * u
    return np.where(nu < 1, nu / np.where(nu < 1, 1 - nu, 1), np.inf)


def _total(parts: list[Approx]) -> Approx:
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _weights(case: Case, own: list[Floats], n: Floats) -> list[Floats]:
    if case.config.sync_weighting == "count":
        return [1.0 / np.maximum(n, 1)] * len(own)
    filled = np.maximum(np.asarray(sum((k > 0).astype(np.float64) for k in own)), 1)
    return [np.where(k > 0, 1.0 / (filled * np.maximum(k, 1)), 0.0) for k in own]


def _corrections(case: Case, one: Approx, mean: Floats, delta: Floats, istd: Approx) -> tuple[Approx, Approx]:
    """Renorm's r and d; clipping moves no two numbers apart, and nothing out of its interval."""
    renorm = case.config.renorm
    if renorm is None:
        return one.like(np.ones_like(mean)), one.like(np.zeros_like(mean))
    assert case.state is not None
    own = renorm.form == "tensorpack"
    centre = as_float64(case.state["renorm_mean" if own else "mean"])
    eps = one.like(np.asarray(case.config.epsilon), one.within.u * case.config.epsilon)
    s = one.like(as_float64(case.state["renorm_stddev" if own else "stddev"]))
    floor = eps.root()
    s = one.like(np.maximum(s.value, floor.value), floor.error)
    r = one / istd / s
    r = one.like(np.clip(r.value, 1 / renorm.rmax, renorm.rmax), r.error + one.within.u)
    # mean is a pair: its high part is rounded before the reference is taken away, its low part added after
    d = (one.like(mean, delta + 2 * one.within.u * np.abs(mean)) - one.like(centre)) / s
    d = one.like(np.clip(d.value, -renorm.dmax, renorm.dmax), d.error)
    return r.at_most(renorm.rmax - 1 / renorm.rmax), d.at_most(2 * renorm.dmax)


def _parameter(array: Array | None, present: bool, absent: float, case: Case, one: Approx) -> Approx:
    if array is None or not present:
        return one.like(np.full((1, case.channels), absent))
    value = as_float64(array)[None, :]
    coarse = arithmetic(array.dtype).u < one.within.u  # cast down into W
    return one.like(value, one.within.u * np.abs(value) if coarse else 0.0)


def _parameter_dtype(case: Case, array: Array | None) -> npt.DTypeLike:
    """Dtype of a parameter's gradient: the parameter's, else the statistics dtype."""
    if array is not None:
        return array.dtype
    return np.float64 if case.ranks[0].x.dtype == np.float64 else np.float32
