"""Mutants of what feeds the state where ghost_source meets the averaging, the correction or counts of channels."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Moments, RunningState
from bnspec._moments import merge_groups
from bnspec._running import used_statistics
from bnspec._types import per_channel
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import with_new, with_stats

__all__ = ["MUTANTS", "one_feed"]


def one_feed(stats: Moments, mean: Any, var: Any, config: Any) -> Moments:
    """Return one group that feeds a mean and a variance, both of shape (C,), with the counts of all groups."""
    count = stats.count.sum(axis=0, keepdims=True)
    divisor = np.maximum(per_channel(count) - config.correction, 1)
    return Moments(count, mean[None, :], 0.0 * mean[None, :], var[None, :] * divisor)


def _averaged(change: Callable[[Moments, Any], Moments]) -> Override:
    """Feed something else than the plain mean where there are groups whose mean feeds."""

    def fed(stats: Moments, config: Any) -> Moments | None:
        several = config.ghost_source == "mean" and config.averaging != "pooled" and len(stats.m2) > 1
        return change(stats, config) if several and stats.count.any() else None

    return with_stats(fed)


def _fed_variance(stats: Moments, config: Any) -> Any:
    return stats.m2 / np.maximum(per_channel(stats.count) - config.correction, 1)


def _by_counts(stats: Moments, config: Any) -> Moments:
    n = per_channel(stats.count) + np.zeros_like(stats.m2)
    share = n / np.maximum(n.sum(axis=0), 1)
    mean = (share * (stats.mean + stats.mean_low)).sum(axis=0)
    return one_feed(stats, mean, (share * _fed_variance(stats, config)).sum(axis=0), config)


def _corrected_once(stats: Moments, config: Any) -> Moments:
    held = per_channel(stats.count > 0) + np.zeros_like(stats.m2)
    number, n = np.maximum(held.sum(axis=0), 1), per_channel(stats.count.sum(axis=0, keepdims=True))[0]
    mean, var = ((held * v).sum(axis=0) / number for v in (stats.mean + stats.mean_low, stats.var))
    return one_feed(stats, mean, var * (n / np.maximum(n - config.correction, 1)), config)


def _shared_by_channels(stats: Moments, config: Any) -> Moments:
    """Divide by the number of groups in which any channel holds something."""
    held = per_channel(stats.count > 0) + np.zeros_like(stats.m2)
    number = max(int(held.any(axis=1).sum()), 1)
    sums = ((held * v).sum(axis=0) / number for v in (stats.mean + stats.mean_low, _fed_variance(stats, config)))
    return one_feed(stats, *sums, config)


def _by_the_first(stats: Moments, config: Any) -> Moments | None:
    if config.ghost_source != "merged" or len(stats.m2) < 2 or config.averaging == "pooled":
        return None
    merged = merge_groups(stats)
    n, first = per_channel(merged.count), np.maximum(per_channel(stats.count[:1]), 1)
    wrong = np.maximum(n - config.correction, 1) / np.maximum(first - config.correction, 1)
    return merged._replace(m2=merged.m2 * wrong)


def _counting(source: str, number: Callable[[Moments], Any], *averagings: str) -> Override:
    """Count another number of updates, or of elements, where something feeds."""

    def counted(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
        if config.ghost_source != source or config.averaging not in averagings or len(stats.m2) < 2:
            return new
        by = np.asarray(number(stats), old.count.dtype)
        return new._replace(count=np.where(new.count > old.count, old.count + by, new.count))

    return with_new(counted)


def _empty_channel_counts(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.averaging not in ("cumulative", "debiased") or not stats.count.any():
        return new
    return new._replace(count=np.maximum(new.count, old.count + 1))


def _total_wraps(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> RunningState:
    """Take elements so far, and with them their squares, below 0 where the sum of both counts overflows."""
    new: RunningState = original(state, stats, config, **named)
    if config.averaging != "pooled" or not len(stats.m2):
        return new
    top = np.iinfo(state.count.dtype).max
    over = top - state.count < stats.count.sum(axis=0)
    return new._replace(var=np.where(over, -new.var, new.var))


class _Local(threading.local):
    """What the last forward pass of this thread, which may be a rank, had by itself: counts of shape (G, C)."""

    unmasked: Any = None
    padded: Any = None
    alone = True


_LOCAL = _Local()


def _dividing_by(counts: Callable[[_Local], Any]) -> Override:
    """Divide what feeds the variance by other counts of the forward pass, less the correction."""

    def forward(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
        stats, done = original(x, params, config, groups, **more)
        _LOCAL.alone, mask = more.get("comm") is None, more.get("mask")
        size = x.size // max(stats.m2.size, 1)
        _LOCAL.padded = np.full(stats.m2.shape, size)
        of_masked = original.__self__.moments(x, groups, mask).count if stats.m2.size else stats.count
        _LOCAL.unmasked = per_channel(of_masked) + np.zeros(stats.m2.shape, int)
        return stats, done

    def update(original: Any, state: Any, stats: Moments, config: Any, **named: Any) -> Any:
        n = counts(_LOCAL)
        if config.correction == 0 or n is None or n.shape != stats.m2.shape:
            return original(state, stats, config, **named)
        right = np.maximum(per_channel(stats.count) - config.correction, 1)
        stats = stats._replace(m2=stats.m2 * (right / np.maximum(n - config.correction, 1)))
        return original(state, stats, config, **named)

    return override(forward=forward, update=update)


def _left_variance(state: RunningState, stats: Moments, config: Any, seen: Any) -> Any:
    """Return what a variance that belongs to no two elements adds, if it is undone by at least 1."""
    alone = (state.count == config.correction) & (config.correction > 0)
    return np.where(alone, state.var * seen, 0.0)


def _undone_by(seen: float) -> Override:
    """Undo the correction of one element so far by another number than 0."""

    def change(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
        if config.averaging != "pooled" or not stats.count.any() or len(stats.m2) != 1:
            return new
        total = np.maximum(new.count - config.correction, 1)
        more = np.where(new.count > old.count, _left_variance(old, stats, config, seen) / total, 0.0)
        return new._replace(var=(new.var + more).astype(new.var.dtype))

    return with_new(change)


def _largest_count(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    if config.averaging != "cumulative" or not state.count.size:
        return original(state, stats, config, **named)
    right = original(state, stats, config, **named)
    one = np.full_like(state.count, state.count.max())
    return original(state._replace(count=one), stats, config, **named)._replace(count=right.count)


def _used_by_the_largest(original: Any, state: RunningState, config: Any) -> Any:
    if config.averaging == "debiased" and state.count.size:
        state = state._replace(count=np.where(state.count > 0, state.count.max(), state.count))
    return original(state, config)


def _log_of_nothing(original: Any, state: RunningState, config: Any) -> Any:
    """Take the logarithm of a decay of 0 as it is, which times a count of 0 is no number."""
    mean, var = original(state, config)
    if config.averaging == "debiased" and config.decay == 0:
        mean, var = (np.where(state.count == 0, np.nan, v).astype(v.dtype) for v in (mean, var))
    return mean, var


MUTANTS = (
    Mutant(
        name="mean-by-counts",
        clause="BN-RUN-8",
        row="D8",
        breaks="Weighs groups of different counts by them where the plain mean of the groups is to feed.",
        apply=_averaged(_by_counts),
    ),
    Mutant(
        name="mean-corrected-once",
        clause="BN-RUN-8",
        row="D8",
        breaks="Averages population variances over the groups and corrects the average by the count of all of them.",
        apply=_averaged(_corrected_once),
    ),
    Mutant(
        name="mean-shared-by-channels",
        clause="BN-RUN-8",
        breaks="Divides a mean of groups by the number of those in which any channel holds something.",
        apply=_averaged(_shared_by_channels),
    ),
    Mutant(
        name="merged-corrected-by-the-first",
        clause="BN-RUN-3",
        row="D2",
        breaks="Corrects the merged variance by the count of the first group.",
        apply=with_stats(_by_the_first),
    ),
    Mutant(
        name="corrected-by-masked-elements-too",
        clause="BN-RUN-3",
        row="D14",
        breaks="Corrects the fed variance by the number of all elements, masked ones included.",
        apply=_dividing_by(lambda local: local.padded if local.alone else None),
    ),
    Mutant(
        name="corrected-by-the-rank",
        clause="BN-RUN-3",
        row="D15",
        breaks="Corrects the joined variance by the rank's own count.",
        apply=_dividing_by(lambda local: None if local.alone else local.unmasked),
    ),
    Mutant(
        name="sequential-counts-once",
        clause="BN-RUN-8",
        breaks="Counts one update for all groups that are fed in order.",
        apply=_counting("sequential", lambda stats: 1, "cumulative", "debiased"),
    ),
    Mutant(
        name="sequential-counts-empty-groups",
        clause="BN-RUN-8",
        row="D10",
        breaks="Counts an update for a group without elements among those that are fed in order.",
        apply=_counting("sequential", lambda stats: len(stats.m2), "cumulative", "debiased"),
    ),
    Mutant(
        name="mean-counts-its-groups",
        clause="BN-RUN-8",
        breaks="Counts an update for each group where their mean is fed, once.",
        apply=_counting("mean", lambda stats: (stats.count > 0).sum(axis=0), "cumulative", "debiased"),
    ),
    Mutant(
        name="first-counts-all-elements",
        clause="BN-RUN-8",
        row="D23",
        breaks="Counts the elements of all groups where the first alone is pooled.",
        apply=_counting("first", lambda stats: stats.count.sum(axis=0), "pooled"),
    ),
    Mutant(
        name="pooled-total-wraps",
        clause="BN-RUN-13",
        breaks="Stops the counter of a pooled state, and divides by a total that has wrapped around.",
        apply=override(update=_total_wraps),
    ),
    Mutant(
        name="empty-channel-counts",
        clause="BN-RUN-9",
        row="D10",
        breaks="Counts an update of a channel without elements where another channel has some.",
        apply=with_new(_empty_channel_counts),
    ),
    Mutant(
        name="pooled-undoes-one-by-one",
        clause="BN-RUN-6",
        row="D24",
        breaks="Multiplies the variance that one element left by 1, for fear of a divisor of 0.",
        apply=_undone_by(1.0),
    ),
    Mutant(
        name="pooled-undoes-one-by-zero",
        clause="BN-RUN-6",
        row="D17",
        breaks="Multiplies the variance that one element left by 0, also where it is not finite.",
        apply=_undone_by(0.0),
    ),
    Mutant(
        name="cumulative-by-the-largest-count",
        clause="BN-RUN-5",
        breaks="Weighs all channels of a cumulative average by the count of the channel that has most.",
        apply=override(update=_largest_count),
    ),
    Mutant(
        name="debiased-by-the-largest-count",
        clause="BN-RUN-7",
        row="D9",
        breaks="Divides all channels of a debiased average by the share of the channel that was updated most.",
        apply=wrap(used_statistics, _used_by_the_largest),
    ),
    Mutant(
        name="debiased-by-the-log-of-nothing",
        clause="BN-RUN-7",
        row="D9",
        breaks="Computes 0*log(0) for a decay of 0 before any update.",
        apply=wrap(used_statistics, _log_of_nothing),
    ),
)
