"""Mutants of what feeds the state where ghost_source, masks or ranks meet the correction or counts of channels."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Moments
from bnspec._moments import merge_groups
from bnspec._types import per_channel
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.updates import with_stats

__all__ = ["MUTANTS", "fed_variance", "one_feed", "over_groups"]


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


def fed_variance(stats: Moments, config: Any) -> Any:
    """Return the variance of each group as it feeds, corrected."""
    return stats.m2 / np.maximum(per_channel(stats.count) - config.correction, 1)


def _by_counts(stats: Moments, config: Any) -> Moments:
    n = per_channel(stats.count) + np.zeros_like(stats.m2)
    share = n / np.maximum(n.sum(axis=0), 1)
    mean = (share * (stats.mean + stats.mean_low)).sum(axis=0)
    return one_feed(stats, mean, (share * fed_variance(stats, config)).sum(axis=0), config)


def over_groups(stats: Moments, *values: Any, together: bool = False) -> list[Any]:
    """Average values of shape (G, C) over the groups in which a channel holds something; `together`: any channel."""
    held = per_channel(stats.count > 0) + np.zeros_like(stats.m2)
    number = held.any(axis=1).sum() if together else held.sum(axis=0)
    return [(held * v).sum(axis=0) / np.maximum(number, 1) for v in values]


def _corrected_once(stats: Moments, config: Any) -> Moments:
    n = per_channel(stats.count.sum(axis=0, keepdims=True))[0]
    mean, var = over_groups(stats, stats.mean + stats.mean_low, stats.var)
    return one_feed(stats, mean, var * (n / np.maximum(n - config.correction, 1)), config)


def _shared_by_channels(stats: Moments, config: Any) -> Moments:
    """Divide by the number of groups in which any channel holds something."""
    mean, var = over_groups(stats, stats.mean + stats.mean_low, fed_variance(stats, config), together=True)
    return one_feed(stats, mean, var, config)


def _by_the_first(stats: Moments, config: Any) -> Moments | None:
    if config.ghost_source != "merged" or len(stats.m2) < 2 or config.averaging == "pooled":
        return None
    merged = merge_groups(stats)
    n, first = per_channel(merged.count), np.maximum(per_channel(stats.count[:1]), 1)
    wrong = np.maximum(n - config.correction, 1) / np.maximum(first - config.correction, 1)
    return merged._replace(m2=merged.m2 * wrong)


class _Local(threading.local):
    """Counts (G, C) that the last forward pass of this thread, which may be a rank, had by itself."""

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
)
