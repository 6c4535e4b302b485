"""Mutants of nonfinite and of weights 0 and 1 where they meet a ghost source, an averaging or renorm."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Moments, RunningState
from bnspec._types import per_channel
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.updates import with_new, with_stats

__all__ = ["MUTANTS"]


def _bad(stats: Moments) -> Any:
    return ~(np.isfinite(stats.mean) & np.isfinite(stats.m2))


def _emptied(source: str, where: Callable[[Any], Any]) -> Override:
    """Leave out groups of a channel under "skip" and a ghost source: `where` tells which, given the bad ones."""

    def change(stats: Moments, config: Any) -> Moments | None:
        if config.nonfinite != "skip" or config.ghost_source != source or not _bad(stats).any():
            return None
        count = per_channel(stats.count) + np.zeros(stats.m2.shape, stats.count.dtype)
        return stats._replace(count=np.where(where(_bad(stats)), 0, count))

    return with_stats(change)


def _raises_by_the_first(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    if config.ghost_source == "sequential" and config.nonfinite == "raise" and not _bad(stats)[:1].any():
        config = dataclasses.replace(config, nonfinite="propagate")
    return original(state, stats, config, **named)


def _result_looked_at(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.averaging != "pooled" or config.nonfinite != "skip":
        return new
    fine = np.isfinite(new.mean) & np.isfinite(new.var)
    return RunningState(*(a if a is None else np.where(fine, b, a) for a, b in zip(old, new, strict=True)))


def _skipped_counts(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.nonfinite != "skip" or old.count is None or not stats.count.any():
        return new
    return new._replace(count=np.maximum(new.count, old.count + 1))


def _deviation_looked_at(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    if config.renorm is not None and config.nonfinite != "propagate" and not _bad(stats).any():
        config = dataclasses.replace(config, nonfinite="propagate")
    return original(state, stats, config, **named)


def _first_average_blends(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.averaging != "cumulative" or not stats.count.any():
        return new
    fresh = old.count == 0
    return new._replace(**{k: np.where(fresh, getattr(new, k) + 0 * getattr(old, k), getattr(new, k)) for k in _MOVED})


_MOVED = ("mean", "var")


def _reference_blends(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.renorm is None or config.renorm.decay != 0 or old.renorm_mean is None or not stats.count.any():
        return new
    return new._replace(**{k: getattr(new, k) + 0 * getattr(old, k) for k in ("renorm_mean", "renorm_stddev")})


def _deviation_blends(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.renorm is None or config.decay != 1 or config.nonfinite == "skip" or not stats.count.any():
        return new
    assert new.stddev is not None
    return new._replace(stddev=(new.stddev + 0 * stats.m2[0]).astype(new.stddev.dtype))


MUTANTS = (
    Mutant(
        name="skip-counts",
        clause="BN-RUN-10",
        row="D17",
        breaks="Skips mean and variance of a channel that is not finite, and counts it.",
        apply=with_new(_skipped_counts),
    ),
    Mutant(
        name="deviation-looked-at",
        clause="BN-RUN-10",
        row="D17",
        breaks="Looks at the deviation that renorm averages, which the state can hold, and not at its variance.",
        apply=override(update=_deviation_looked_at),
    ),
    Mutant(
        name="mean-skips-the-bad-group",
        clause="BN-RUN-10",
        row="D17",
        breaks="Averages the groups that are finite where one that is not makes their mean so.",
        apply=_emptied("mean", lambda bad: bad),
    ),
    Mutant(
        name="sequential-skips-all",
        clause="BN-RUN-10",
        row="D17",
        breaks="Skips all groups of a channel where the bad one alone is to be skipped.",
        apply=_emptied("sequential", lambda bad: bad.any(axis=0)),
    ),
    Mutant(
        name="first-skipped-for-another",
        clause="BN-RUN-10",
        row="D17",
        breaks="Skips the first group, which alone feeds, because another one is not finite.",
        apply=_emptied("first", lambda bad: bad.any(axis=0)),
    ),
    Mutant(
        name="sequential-raises-by-the-first",
        clause="BN-RUN-10",
        row="D17",
        breaks="Looks for what is not finite in the first of the groups that feed in order.",
        apply=override(update=_raises_by_the_first),
    ),
    Mutant(
        name="pooled-looks-at-the-result",
        clause="BN-RUN-10",
        row="D17",
        breaks="Skips a finite batch where the pooled result is not finite, because the old state is not.",
        apply=with_new(_result_looked_at),
    ),
    Mutant(
        name="first-average-blends",
        clause="BN-RUN-11",
        row="D17",
        breaks="Computes old + 1*(batch - old) for the first update of a cumulative average.",
        apply=with_new(_first_average_blends),
    ),
    Mutant(
        name="reference-blends",
        clause="BN-RUN-11",
        row="D17",
        breaks="Computes old + 1*(batch - old) for a reference whose own decay is 0.",
        apply=with_new(_reference_blends),
    ),
    Mutant(
        name="deviation-blends",
        clause="BN-RUN-11",
        row="D17",
        breaks="Computes old + 0*(batch - old) for renorm's deviation, so that NaN enters.",
        apply=with_new(_deviation_blends),
    ),
)
