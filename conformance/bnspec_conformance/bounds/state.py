"""Error bounds of the running state: every averaging, written in numbers that carry their error.

Vectorized over channels, unlike the oracle's own version, because nothing here has to be exact.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnspec._config import BatchNormConfig
from bnspec_conformance.bounds.rounding import Approx
from bnspec_conformance.cases.case import Array, as_float64

__all__ = ["FedGroup", "advance_bounds", "running_approx", "state_approx"]

Floats = npt.NDArray[np.float64]
ApproxState = dict[str, Approx]


@dataclass(frozen=True)
class FedGroup:
    """Count, mean (as a pair: its error excludes the rounding of their sum) and population variance, (C,)."""

    n: int
    mean: Approx
    var: Approx


def state_approx(state: dict[str, Array], one: Approx) -> ApproxState:
    """Return the stored state; exact, counts included."""
    return {name: one.like(as_float64(values)) for name, values in state.items()}


def running_approx(config: BatchNormConfig, state: ApproxState, dtype: npt.DTypeLike) -> tuple[Approx, Approx]:
    """Mean and variance that inference uses; debiasing divides by 1 - decay**t.

    That divisor may err by 8 roundoffs of the state's dtype. The quotients are values of the public
    ``running_statistics``, so they may be cast to that dtype.
    """
    mean, var = state["mean"], state["var"]
    if config.averaging != "debiased":
        return mean, var
    t = state["count"].value
    faded = np.where(t > 0, config.decay**t, 1.0)
    none = faded == 1
    grown = np.where(none, 1.0, -np.expm1(np.where(t > 0, t, 1) * np.log(max(config.decay, 5e-324))))
    divisor = mean.like(grown, np.where(none, 0.0, 4 * float(np.finfo(dtype).eps) * grown))
    zero, one = mean.like(np.zeros_like(t)), mean.like(np.ones_like(t))
    mean, var = (mean / divisor).cast(dtype, False), (var / divisor).cast(dtype, False)
    return zero.where(none, mean), one.where(none, var)


def advance_bounds(
    config: BatchNormConfig, state: dict[str, Array], groups: list[FedGroup], flush: bool
) -> dict[str, Array]:
    """Bounds of the state after one call, one cast to its dtype per update included."""
    one = Approx(np.ones(()), np.zeros(()), groups[0].mean.within) if groups else None
    if one is None:
        return {name: np.zeros(values.shape) for name, values in state.items()}
    now = state_approx(state, one)
    for stats in _sources(config, groups):
        stats = [s for s in stats if s.n]
        if not stats:
            continue
        finite = np.all([np.isfinite(s.mean.value) & np.isfinite(s.var.value) for s in stats], axis=0)
        new = _pool(config, now, stats[0]) if config.averaging == "pooled" else _step(config, now, stats, state, flush)
        for name, value in new.items():
            if name == "count":
                continue
            new[name] = value.cast(state[name].dtype, flush)
        if config.nonfinite == "skip":
            new = {name: value.where(finite, now[name]) for name, value in new.items()}
        now = new
    return {name: value.error * (name != "count") for name, value in now.items()}


def _sources(config: BatchNormConfig, groups: list[FedGroup]) -> list[list[FedGroup]]:
    filled = [g for g in groups if g.n]
    if config.ghost_source == "first":
        return [groups[:1]]
    if config.ghost_source == "mean":
        return [filled]
    if config.ghost_source == "sequential":
        return [[g] for g in filled]
    return [[_merge(filled)]] if filled else []


def _merge(groups: list[FedGroup]) -> FedGroup:
    """Chan's rule, as one sum; five roundings of a difference of means for every join."""
    if len(groups) == 1:
        return groups[0]
    n, one, joins = sum(g.n for g in groups), groups[0].mean, len(groups) - 1
    share = [g.n / n for g in groups]
    mean = np.asarray(sum(s * g.mean.value for s, g in zip(share, groups, strict=True)))
    spread = np.max([np.abs(g.mean.value - mean) for g in groups], axis=0)
    error = np.max([g.mean.error for g in groups], axis=0) + 5 * joins * one.within.u * 2 * spread
    total = one.like(np.zeros_like(mean))
    for s, g in zip(share, groups, strict=True):
        apart = one.like(g.mean.value - mean, g.mean.error + error)
        total = total + one.like(s) * (g.var + apart * apart)
    return FedGroup(n, one.like(mean, error), total)


def _collapsed(mean: Approx) -> Approx:
    """Return the pair's sum as one number."""
    return mean.off_by(mean.within.u * np.abs(mean.value))


def _mix(old: Approx, new: Approx, weight: Approx) -> Approx:
    mixed = old + weight * (new - old)
    return old.where(weight.value == 0, new.where(weight.value == 1, mixed))


def _fed(config: BatchNormConfig, group: FedGroup) -> Approx | None:
    """m2/(n - correction); None where the running variance stays."""
    divisor = group.n - config.correction
    if divisor <= 0:
        if config.single_value != "floor":
            return None
        divisor = 1
    one = group.var
    return group.var * one.like(float(group.n)) / one.like(float(divisor))


def _average(values: list[Approx]) -> Approx:
    if len(values) == 1:
        return values[0]
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / total.like(float(len(values)))


def _step(
    config: BatchNormConfig, old: ApproxState, stats: list[FedGroup], dtypes: dict[str, Array], flush: bool
) -> ApproxState:
    new, one = dict(old), old["mean"]
    u = one.within.u
    fraction = 1 - config.decay
    weight = one.like(np.full(one.value.shape, fraction), 0.0 if fraction in (0, 1) else 2 * u)
    if config.counts_updates:
        t = old["count"].value + 1
        new["count"] = one.like(t)
        if config.averaging == "cumulative":
            weight = one.like(1 / t, np.where(t == 1, 0.0, 2 * u / t))
    mean = _average([_collapsed(s.mean) for s in stats])
    fed = [_fed(config, s) for s in stats]
    known = [var for var in fed if var is not None]
    new["mean"] = _mix(old["mean"], mean, weight)
    renorm = config.renorm
    own = renorm is not None and renorm.form == "tensorpack"
    slow = weight
    if renorm is not None:
        part = 1 - renorm.decay
        slow = one.like(np.full(one.value.shape, part), 0.0 if part in (0, 1) else 2 * u)
    if own:
        new["renorm_mean"] = _mix(old["renorm_mean"], mean, slow)
    if len(known) < len(fed):
        return new
    var = _average(known)
    if renorm is None:
        new["var"] = _mix(old["var"], var, weight)
        return new
    eps = one.like(np.full(one.value.shape, config.epsilon), u * config.epsilon)
    sigma = (var + eps).root()
    if own:
        new["renorm_stddev"] = _mix(old["renorm_stddev"], sigma, slow)
    deviation = new["stddev"] = _mix(old["stddev"], sigma, weight)
    kept = deviation.cast(dtypes["stddev"].dtype, flush)  # the variance may be taken before or after the cast
    square = kept * kept - eps
    new["var"] = one.like(np.maximum(square.value, 0.0), square.error)
    return new


def _pool(config: BatchNormConfig, old: ApproxState, stat: FedGroup) -> ApproxState:
    seen, one = old["count"].value, old["mean"]
    n = seen + stat.n
    m2 = old["var"] * one.like(np.maximum(seen - config.correction, 0))
    apart = _collapsed(stat.mean) - old["mean"]
    both = one.like(seen * stat.n) / one.like(n)
    total = m2 + stat.var * one.like(float(stat.n)) + apart * apart * both
    fresh = seen == 0
    mean = _collapsed(stat.mean).where(fresh, old["mean"] + apart * (one.like(float(stat.n)) / one.like(n)))
    total = (stat.var * one.like(float(stat.n))).where(fresh, total)
    below = n - config.correction
    if config.single_value == "floor":
        below = np.maximum(below, 1)
    new = dict(old)
    new["count"], new["mean"] = one.like(n), mean
    new["var"] = (total / one.like(np.where(below > 0, below, 1))).where(below > 0, old["var"])
    return new
