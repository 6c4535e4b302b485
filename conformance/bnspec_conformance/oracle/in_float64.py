"""The same answer in straightforward float64 NumPy: two passes, no compensation beyond the mean's low part.

For arrays too large for exact arithmetic and for central differences. Its error is a few float64 roundoffs
times the count; it overflows where float64 does. Renorm's corrections can be given, so that a difference
quotient holds them constant.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.cases.layout import GroupLayout, layouts
from bnspec_conformance.oracle.exact_state import Stat, advance, channel_state, pack_state, reference, used
from bnspec_conformance.oracle.rational import number, rounded

__all__ = ["Corrections", "Floats", "batch", "inference", "moments"]

Floats = npt.NDArray[np.float64]

#: Renorm's r and d, shape (G, C) each.
Corrections = tuple[Floats, Floats]


@dataclass(frozen=True)
class Joined:
    """Statistics of every group, joined over ranks; lists have one entry per rank.

    Attributes
    ----------
    counts : list of array
        Shape (G, 1), or (G, C) where channels have counts of their own.
    weights : list of array
        Shape (G, 1, 1) or (G, C, 1): weight of one element in the mean.
    live : list of array
        Shape (G, C, L) booleans.
    centred : list of array
        Shape (G, C, L): x - mean; 0 at masked values that are not finite.
    high, low : array
        Shape (G, C): the mean as an unevaluated sum.
    mean, var : array
        Shape (G, C).
    """

    counts: list[Array]
    weights: list[Floats]
    live: list[Array]
    centred: list[Floats]
    high: Floats
    low: Floats
    mean: Floats
    var: Floats


def moments(case: Case, plan: list[GroupLayout]) -> Joined:
    """Two-pass moments; NaN for a group with an unmasked value that is not finite."""
    channels = case.channels
    groups = plan[0].groups
    counts, live, values = [], [], []
    poison = np.zeros((groups, channels), bool)
    for rank, layout in zip(case.ranks, plan, strict=True):
        x = layout.fold(as_float64(rank.x))
        counted = 1 if rank.mask is None else rank.mask.shape[layout.axis]
        single = GroupLayout(
            tuple(counted if i == layout.axis else s for i, s in enumerate(layout.shape)), layout.axis, groups
        )
        mask = single.fold(np.ones(single.shape, bool) if rank.mask is None else np.asarray(rank.mask, bool))
        counts.append(mask.sum(axis=2))
        live.append(np.broadcast_to(mask, x.shape))
        poison |= (live[-1] & ~np.isfinite(x)).any(axis=2)
        values.append(np.where(np.isfinite(x), x, 0.0))
    total = np.asarray(sum(counts))
    if case.config.sync_weighting == "count":
        weights = [1.0 / np.maximum(total, 1) for _ in counts]
    else:
        filled = np.maximum(sum((n > 0).astype(int) for n in counts), 1)
        weights = [np.where(n > 0, 1.0 / (filled * np.maximum(n, 1)), 0.0) for n in counts]
    shaped = [w[:, :, None] for w in weights]

    def average(arrays: list[Floats]) -> Floats:
        return np.asarray(
            sum(np.sum(np.where(m, a * w, 0.0), axis=2) for a, w, m in zip(arrays, shaped, live, strict=True))
        )

    # Shifted by the largest value, so that equal values have exactly themselves as their mean.
    tops = [np.max(v, axis=2, initial=-np.inf, where=m) for v, m in zip(values, live, strict=True)]
    top = np.max(tops, axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    high = top * (total > 0) + average([v - top[:, :, None] for v in values])
    rest = [v - high[:, :, None] for v in values]
    low = average(rest)
    finite = [np.isfinite(layout.fold(as_float64(r.x))) for r, layout in zip(case.ranks, plan, strict=True)]
    centred = [np.where(f, d - low[:, :, None], 0.0) for d, f in zip(rest, finite, strict=True)]
    var = average([d * d for d in centred])
    nan = np.where(poison, np.nan, 0.0)
    return Joined(counts, shaped, live, centred, high, low, high + low + nan, var + nan)


def batch(case: Case, corrections: Corrections | None = None) -> Outcome:
    """Normalization by batch statistics, derivatives, and the running state afterwards."""
    config, plan = case.config, list(layouts(case))
    with np.errstate(all="ignore"):
        joined = moments(case, plan)
        count = np.asarray(sum(joined.counts))
        count = np.broadcast_to(count, joined.mean.shape) if case.counts_channels else count[:, 0]
        istd = 1.0 / np.sqrt(joined.var + config.epsilon)
        r, d = corrections if corrections is not None else correct(case, joined.mean, istd)
        gamma, beta = _parameter(case.gamma, config.scale, 1.0, case), _parameter(case.beta, config.center, 0.0, case)
        gamma_dot = _parameter(case.gamma_dot, config.scale, 0.0, case)
        beta_dot = _parameter(case.beta_dot, config.center, 0.0, case)
        a, scale = (gamma * r * istd)[:, :, None], (r * istd)[:, :, None]
        g = [layout.optional(rank.dy) for rank, layout in zip(case.ranks, plan, strict=True)]
        xd = [layout.optional(rank.xdot) for rank, layout in zip(case.ranks, plan, strict=True)]
        raw = [layout.fold(as_float64(rank.x)) for rank, layout in zip(case.ranks, plan, strict=True)]
        solid = [m | np.isfinite(x) for m, x in zip(joined.live, raw, strict=True)]
        s1 = np.asarray(sum(v.sum(axis=2) for v in g))[:, :, None]
        t = np.asarray(sum((v * z).sum(axis=2) for v, z in zip(g, joined.centred, strict=True)))[:, :, None]
        dmean, dvar = (
            np.asarray(sum(as_float64(q) for q in v) if v else np.zeros_like(istd))[:, :, None]
            for v in (case.dmean, case.dvar)
        )
        tangents = list(zip(joined.weights, joined.live, xd, joined.centred, strict=True))
        mean_dot = np.asarray(sum((w * m * v).sum(axis=2) for w, m, v, _ in tangents))
        h = np.asarray(sum((w * m * v * z).sum(axis=2) for w, m, v, z in tangents)) + 0 * joined.mean
        slope = (gamma_dot * r * istd)[:, :, None] - a * ((istd**2) * h)[:, :, None]
        state = _advance(case, count, joined)
        results = []
        for i, layout in enumerate(plan):
            z, m, w = joined.centred[i], joined.live[i], joined.weights[i]
            y = a * np.where(solid[i], z, raw[i]) + (gamma * d + beta)[:, :, None]
            pull = dmean - a * s1 + (2 * dvar - a * (istd**2)[:, :, None] * t) * z
            dx = a * g[i] + np.where(m, w * pull, 0.0)
            dgamma = (g[i] * (z * scale + d[:, :, None])).sum(axis=(0, 2))
            affine = slope * z + (gamma_dot * d + beta_dot)[:, :, None]
            ydot = a * (xd[i] - mean_dot[:, :, None]) + affine
            results.append(
                RankOutcome(
                    y=layout.unfold(y),
                    count=count,
                    mean=joined.mean,
                    var=joined.var,
                    state=state,
                    dx=layout.unfold(dx) if case.has_vjp else None,
                    dgamma=dgamma if case.has_vjp and config.scale else None,
                    dbeta=g[i].sum(axis=(0, 2)) if case.has_vjp and config.center else None,
                    ydot=layout.unfold(ydot) if case.has_jvp else None,
                    mean_dot=mean_dot if case.has_jvp else None,
                    var_dot=2 * h if case.has_jvp else None,
                )
            )
    return Outcome(tuple(results))


def inference(case: Case) -> Outcome:
    """Normalization by the running statistics as constants, and its derivatives."""
    config = case.config
    assert case.state is not None, "inference needs a state"
    mean, var = (values.reshape(1, -1, 1) for values in _used(case, case.state))
    gamma = _parameter(case.gamma, config.scale, 1.0, case)[:, None]
    beta = _parameter(case.beta, config.center, 0.0, case)[:, None]
    gamma_dot = _parameter(case.gamma_dot, config.scale, 0.0, case)[:, None]
    beta_dot = _parameter(case.beta_dot, config.center, 0.0, case)[:, None]
    results = []
    with np.errstate(all="ignore"):
        istd = 1.0 / np.sqrt(var + config.epsilon)
        for rank, layout in zip(case.ranks, layouts(case), strict=True):
            z = layout.fold(as_float64(rank.x)) - mean
            g, xd = layout.optional(rank.dy), layout.optional(rank.xdot)
            ydot = gamma * istd * xd + np.where(gamma_dot == 0, 0.0, gamma_dot * istd * z) + beta_dot
            results.append(
                RankOutcome(
                    y=layout.unfold(gamma * istd * z + beta),
                    dx=layout.unfold(gamma * istd * g) if case.has_vjp else None,
                    dgamma=(g * z * istd).sum(axis=(0, 2)) if case.has_vjp and config.scale else None,
                    dbeta=g.sum(axis=(0, 2)) if case.has_vjp and config.center else None,
                    ydot=layout.unfold(ydot) if case.has_jvp else None,
                )
            )
    return Outcome(tuple(results))


def correct(case: Case, mean: Floats, istd: Floats) -> Corrections:
    """Renorm's r and d, shape (G, C); 1 and 0 without it."""
    renorm = case.config.renorm
    if renorm is None:
        return np.ones_like(mean), np.zeros_like(mean)
    assert case.state is not None, "renorm needs a state"
    pairs = [reference(case.config, channel_state(case.state, c)) for c in range(case.channels)]
    m, s = np.array([rounded(p[0]) for p in pairs]), np.array([rounded(p[1]) for p in pairs])
    with np.errstate(all="ignore"):
        r = np.clip(1.0 / (istd * s), 1.0 / renorm.rmax, renorm.rmax)
        return r, np.clip((mean - m) / s, -renorm.dmax, renorm.dmax)


def _parameter(array: Array | None, present: bool, absent: float, case: Case) -> Floats:
    return np.full(case.channels, absent) if array is None or not present else as_float64(array)


def _used(case: Case, state: dict[str, Array]) -> tuple[Floats, Floats]:
    """Return the mean and the variance that inference uses, NaN for what is not finite."""
    if case.config.averaging != "debiased":  # they are the state's, of all channels at once: there may be many
        given = as_float64(state["mean"]), as_float64(state["var"])
        mean, var = (np.where(np.isfinite(values), values, np.nan) for values in given)
        return mean, var
    pairs = [used(case.config, channel_state(state, c)) for c in range(case.channels)]
    return np.array([rounded(p[0]) for p in pairs]), np.array([rounded(p[1]) for p in pairs])


def _advance(case: Case, count: Array, joined: Joined) -> dict[str, Array] | None:
    if case.state is None or not case.update:
        return None
    config, plain = case.config, ("mean", "var")
    if (
        config.averaging == "exponential"
        and config.renorm is None
        and len(count) == 1
        and np.all(count[0] > config.correction)
    ):
        fed = joined.mean[0], joined.var[0] * (count[0] / (count[0] - config.correction))
        if np.all(np.isfinite(fed)):  # one blend for all channels at once: there may be many
            old = [as_float64(case.state[name]) for name in plain]
            return {k: v + (1 - config.decay) * (new - v) for k, v, new in zip(plain, old, fed, strict=True)}
    limit = int(np.iinfo(case.state["count"].dtype).max) if "count" in case.state else 0
    after = []
    for c in range(case.channels):
        stats = []
        for g, n in enumerate(count[:, c].tolist() if count.ndim == 2 else count.tolist()):
            var = number(float(joined.var[g, c]))
            mean = number(float(joined.mean[g, c]))
            if mean is not None:  # as a pair, so that merging groups far from 0 loses nothing
                low = Fraction(float(joined.low[g, c]))
                mean = low + Fraction(float(joined.high[g, c]))
            stats.append(Stat(n, mean, None if var is None else var * Fraction(n)))
        after.append(advance(case.config, channel_state(case.state, c), stats, limit))
    return pack_state(case.state, after)
