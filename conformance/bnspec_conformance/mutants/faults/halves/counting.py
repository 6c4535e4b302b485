"""Mutants of counters: what is counted under a ghost source, in a channel, at the end, and what a count makes of it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Moments, RunningState
from bnspec._running import used_statistics
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import with_new

__all__ = ["MUTANTS"]


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
