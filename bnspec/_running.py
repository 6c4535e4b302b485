"""Running statistics: what is remembered of each batch, and how (SPEC.md, "Running statistics").

    new = old + w*(batch - old),    w = 1 - decay  |  1/(t + 1)  |  n/(N + n)

Every function returns a new state and writes into none.

References
----------
Ioffe, Szegedy, "Batch Normalization", 2015, section 3.1 and algorithm 2 (inference and the corrected
variance); Kingma, Ba, "Adam", 2015, section 3 (dividing by 1 - decay^t); Chan et al. 1983 (pooling).
"""

import functools
import itertools
import math
import operator
from typing import Any, NamedTuple

from bnspec._arrays import array_namespace, where
from bnspec._checks import elements
from bnspec._config import BatchNormConfig
from bnspec._counts import counts_of
from bnspec._errors import refusal
from bnspec._modes import untraced, values
from bnspec._moments import group, merge_groups
from bnspec._sharding import gathered
from bnspec._types import Array, Moments, RunningState

__all__ = ["advance", "finite_channels", "refuse_not_finite", "share_of", "too_few", "update", "used_statistics"]


class _Feed(NamedTuple):
    """One step's contribution to the state."""

    count: Array  # shape (), or (C,) where each channel has a count of its own; integer
    mean: Array  # shape (C,), arithmetic dtype
    m2: Array  # shape (C,), arithmetic dtype
    var: Array  # shape (C,), arithmetic dtype: m2 / (count - correction), what the state remembers
    lacking: Array  # count's shape, bool: the count is too small and the old variance is to stay


def update(state: RunningState, stats: Moments, config: BatchNormConfig, name: str) -> RunningState:
    """Return the running state after one batch, for a state and moments whose kinds and shapes were checked."""
    elements.state_values(state, name)
    elements.moments_values(stats, name)
    _check_counts(stats.count, state, config, name)
    return advance(state, stats, config, name)


def advance(state: RunningState, stats: Moments, config: BatchNormConfig, name: str) -> RunningState:
    """Do what `update` does, for a state and moments whose values were checked too, but for BN-RUN-10."""
    for feed in _feeds(stats, config):
        state = _step(state, feed, config, name)
    return state


def _feeds(stats: Moments, config: BatchNormConfig) -> list[_Feed]:
    """The contributions of one batch, in order, by the configured ghost source [BN-RUN-8]."""
    number = untraced(lambda: int(stats.m2.shape[0]))
    if number == 0:
        return []
    if number > 1:
        stats = Moments(*(gathered(v) for v in stats))
    if number == 1 or config.ghost_source == "first":
        return [_feed_of(group(stats, 0), config)]
    if config.ghost_source == "merged":
        return [_feed_of(merge_groups(stats), config)]
    each = [_feed_of(group(stats, j), config) for j in range(number)]
    return each if config.ghost_source == "sequential" else [_mean_of(each)]


def _feed_of(one: Moments, config: BatchNormConfig) -> _Feed:
    """Turn the moments of one group into a feed."""
    xp = array_namespace(one.m2)
    count, m2 = one.count[0, ...], one.m2[0, ...]
    n = count - config.correction
    divisor = xp.where(n < 1, xp.ones_like(n), n)
    var = m2 / xp.astype(divisor, m2.dtype)
    if config.correction and config.single_value == "raise":  # reached by 1 - 1 only where JAX traces: it cannot raise
        var = xp.where((n < 1) & (count > 0), xp.full_like(var, math.nan), var)
    lacking = (n < 1) if config.correction and config.single_value == "keep" else xp.zeros_like(n) > 0
    return _Feed(count, (one.mean + one.mean_low)[0, ...], m2, var, lacking)


def _check_counts(count: Array, state: RunningState, config: BatchNormConfig, name: str) -> None:
    """Refuse a count that leaves the corrected variance undefined, where counts can be known [BN-RUN-4].

    The host waits for a device only where shapes do not say what the count is: with a mask, or ranks to join.
    """
    if config.correction == 0 or config.single_value != "raise":
        return
    known = counts_of(count)
    if not known:
        return
    shared = count.ndim == 1
    columns = [known] if shared else [known[c :: count.shape[1]] for c in range(count.shape[1])]
    if all(n == 0 or n > config.correction for n in known):
        return
    pooled = config.averaging == "pooled"  # what must exceed the correction is the count so far
    before = values(state.count) if pooled and state.count is not None else None
    if pooled and state.count is not None and before is None:
        return
    seen = [0] * len(columns) if before is None else [min(before, default=1)] if shared else before
    for channel, counts in enumerate(columns):
        if config.ghost_source == "first":
            counts = counts[:1]
        if config.ghost_source == "merged" or (pooled and config.ghost_source == "mean"):
            counts = [sum(counts)]
        for number, earlier in zip(counts, itertools.accumulate([0, *counts])):
            if number == 0 or number + (seen[channel] + earlier if pooled else 0) > config.correction:
                continue
            where_in = f"({state.mean.shape[0]} channels)" if shared else f"in channel {channel}"
            raise too_few(number, where_in, config, name)


def too_few(number: int, where_in: str, config: BatchNormConfig, name: str) -> Exception:
    """Return the refusal of a count that leaves the corrected variance undefined."""
    return refusal(
        ValueError,
        "BN-RUN-4",
        got=f"{name}: a batch with {number} value per channel {where_in}",
        expected=f"more than {config.correction} for correction={config.correction}",
        do='Use a larger batch, correction=0, or single_value="keep" or "floor".',
    )


def share_of(decay: float, count: int) -> float:
    """Return ``1 - decay^count``, the weight of a number of updates in an average that is to be debiased [BN-RUN-7].

    Examples
    --------
    >>> share_of(0.5, 2), share_of(0.0, 1), share_of(0.5, 0)
    (0.75, 1.0, 0.0)
    """
    if decay == 0 or count == 0:
        return float(count > 0)
    return -math.expm1(count * math.log(decay))  # keeps the digits where decay is close to 1


def finite_channels(mean: Array, m2: Array, var: Array, dtype: Any) -> Array:
    """Return where statistics are finite, also in a state's dtype [BN-RUN-10]."""
    xp = array_namespace(mean)
    top = float(xp.finfo(dtype).max)  # what the state cannot hold is not finite there
    return xp.isfinite(mean) & xp.isfinite(m2) & ~(xp.abs(mean) > top) & ~(xp.abs(var) > top)


def refuse_not_finite(usable: Array, name: str) -> None:
    """Refuse statistics that are not finite in every channel, shape (C,), where there are values to look at."""
    if values(array_namespace(usable).all(usable)) != [False]:  # one flag, for which the host has to wait
        return
    bad = [c for c, ok in enumerate(values(usable) or ()) if not ok]
    raise refusal(
        FloatingPointError,
        "BN-RUN-10",
        got=f"{name}: statistics that are not finite in channels {bad}",
        expected="finite statistics",
        do='Look for NaN or overflow in x, or choose nonfinite="skip".',
    )


def _mean_of(each: list[_Feed]) -> _Feed:
    """The plain mean of the groups that hold elements."""
    xp = array_namespace(each[0].mean)
    dtype = each[0].mean.dtype
    held = [feed.count > 0 for feed in each]
    number = functools.reduce(operator.add, [xp.astype(h, dtype) for h in held])
    number = number + xp.astype(number == 0, dtype)

    def average(field: str) -> Array:
        parts = [xp.where(h, getattr(f, field), xp.zeros_like(f.mean)) for h, f in zip(held, each, strict=True)]
        return functools.reduce(operator.add, parts) / number

    count = functools.reduce(operator.add, [feed.count for feed in each])
    lacking = functools.reduce(operator.or_, [h & f.lacking for h, f in zip(held, each, strict=True)])
    return _Feed(count, average("mean"), average("m2"), average("var"), lacking)


def _step(state: RunningState, feed: _Feed, config: BatchNormConfig, name: str) -> RunningState:
    """Apply one feed."""
    xp = array_namespace(feed.mean)
    dtype = feed.mean.dtype
    usable = finite_channels(feed.mean, feed.m2, feed.var, state.var.dtype)
    if config.nonfinite == "raise":
        refuse_not_finite(usable, name)
    take = feed.count > 0
    take = usable & take if config.nonfinite == "skip" else take | xp.zeros_like(usable)
    old = RunningState(*(v if v is None or i == 2 else xp.astype(v, dtype) for i, v in enumerate(state)))
    keep_var = feed.lacking | xp.zeros_like(take)

    if config.averaging == "pooled":
        new, keep_var = _pool(old, feed, config)
    else:
        w = _weight(old, config, dtype)
        new = old._replace(mean=_move(old.mean, feed.mean, w), var=_move(old.var, feed.var, w))
        if config.counts_updates:
            assert old.count is not None
            new = new._replace(count=_count_up(old.count, 1))
    if config.renorm is not None:
        new = _move_deviations(old, new, feed, config)

    def settle(name: str, before: Array | None, after: Array | None) -> Array | None:
        if before is None or after is None:
            return before
        chosen = take & ~keep_var if name in ("var", "stddev", "renorm_stddev") else take
        return where(chosen, xp.astype(after, before.dtype), before)

    return RunningState(*map(settle, RunningState._fields, state, new))


def _weight(old: RunningState, config: BatchNormConfig, dtype: object) -> float | Array:
    """The share of the new batch: a Python float; (C,) where it depends on the count; () where a schedule holds it."""
    if config.averaging != "cumulative":
        return 1.0 - config.decay
    xp = array_namespace(old.mean)
    return 1.0 / (xp.astype(old.count, dtype) + 1.0)


def _move(old: Array, batch: Array, w: float | Array) -> Array:
    """``old + w*(batch - old)``; weight 1 takes the batch and weight 0 keeps the old to the bit [BN-RUN-11]."""
    if isinstance(w, float | int):
        return old if w == 0 else batch if w == 1 else old + w * (batch - old)
    xp = array_namespace(old)
    moved = xp.where(w == 1, batch, old + w * (batch - old))
    return moved if w.ndim else xp.where(w == 0, old, moved)  # a count never makes a weight of 0


def _pool(old: RunningState, feed: _Feed, config: BatchNormConfig) -> tuple[RunningState, Array]:
    """Merge the feed into the moments of all elements seen so far [BN-RUN-6]."""
    xp = array_namespace(feed.mean)
    dtype = feed.mean.dtype
    assert old.count is not None
    seen, n = xp.astype(old.count, dtype), xp.astype(feed.count, dtype)
    total = seen + n
    share = n / (total + xp.astype(total == 0, dtype))
    first = seen == 0
    difference = feed.mean - old.mean
    spare = seen - config.correction  # where it is 0 the old variance says nothing, and may be NaN
    old_m2 = xp.where(spare > 0, old.var * spare, xp.zeros_like(seen))
    m2 = xp.where(first, feed.m2, old_m2 + feed.m2 + difference * difference * (seen * share))
    divisor = total - config.correction
    lacking = divisor <= 0
    keep_var = lacking if config.correction and config.single_value == "keep" else xp.zeros_like(lacking)
    fallback = xp.full_like(m2, math.nan) if config.single_value == "raise" else m2
    var = xp.where(lacking, fallback, m2 / (divisor + xp.astype(lacking, dtype) * (1.0 - divisor)))
    mean = xp.where(first, feed.mean, old.mean + difference * share)
    return old._replace(mean=mean, var=var, count=_count_up(old.count, feed.count)), keep_var


def _count_up(count: Array, by: int | Array) -> Array:
    """Add to a counter that stops at its dtype's maximum instead of wrapping [BN-RUN-13]."""
    xp = array_namespace(count)
    top = int(xp.iinfo(count.dtype).max)
    room = top - count
    by = xp.zeros_like(count) + by
    return xp.where(room < by, xp.full_like(count, top), count + xp.where(room < by, xp.zeros_like(by), by))


def _move_deviations(old: RunningState, new: RunningState, feed: _Feed, config: BatchNormConfig) -> RunningState:
    """Renorm's averages of sqrt(var + epsilon), and the inference variance that follows [BN-RENORM-5, 6, 7]."""
    assert config.renorm is not None
    xp = array_namespace(feed.mean)
    sigma = xp.sqrt(feed.var + config.epsilon)
    stddev = _move(old.stddev, sigma, 1.0 - config.decay)
    var = stddev * stddev - config.epsilon
    new = new._replace(stddev=stddev, var=xp.where(var < 0, xp.zeros_like(var), var))
    if config.renorm.form == "paper":
        return new
    w = 1.0 - config.renorm.decay
    return new._replace(
        renorm_mean=_move(old.renorm_mean, feed.mean, w), renorm_stddev=_move(old.renorm_stddev, sigma, w)
    )


def used_statistics(state: RunningState, config: BatchNormConfig) -> tuple[Array, Array]:
    """Return what `running_statistics` does for a state that was checked before."""
    if config.averaging != "debiased":
        return state.mean, state.var
    xp = array_namespace(state.mean)
    t = xp.astype(state.count, state.mean.dtype)
    fresh = t == 0
    if config.decay == 0:
        share = xp.ones_like(t)
    else:  # expm1 keeps the digits of 1 - decay^t when decay is close to 1
        share = -xp.expm1(t * math.log(config.decay))
    share = xp.where(fresh, xp.ones_like(share), share)
    return (
        where(fresh, xp.zeros_like(state.mean), state.mean / share),
        where(fresh, xp.ones_like(state.var), state.var / share),
    )
