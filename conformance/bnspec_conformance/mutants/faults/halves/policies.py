"""Mutants of single_value where it meets a ghost source, an averaging or renorm, and of what is refused together."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import BatchNormConfig, Moments, RunningState
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.updates import configured, with_new, with_stats

__all__ = ["MUTANTS"]

_DEVIATIONS = ("stddev", "renorm_stddev")
_REFERENCE = ("renorm_mean", "renorm_stddev")


def _fields(fields: tuple[str, ...], when: Callable[[BatchNormConfig], bool], **changes: Any) -> Override:
    """Take some fields of the new state from an update under another configuration."""

    def update(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> RunningState:
        new: RunningState = original(state, stats, config, **named)
        if not when(config):
            return new
        other = configured(lambda config: True, **changes)(original, state, stats, config, **named)
        return new._replace(**{field: getattr(other, field) for field in fields})

    return override(update=update)


def _keeps(config: BatchNormConfig) -> bool:
    return config.single_value == "keep" and config.correction == 1


def _skips(config: BatchNormConfig) -> bool:
    return config.nonfinite == "skip"


def _kept_where_one(field: str, averaging: str) -> Override:
    """Keep one more array of the state where the policy is to keep the variance."""

    def change(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
        if not _keeps(config) or config.averaging != averaging or len(stats.m2) != 1:
            return new
        lacking = np.equal(old.count if averaging == "pooled" else 0, 0) & (stats.count[0] == 1)
        return new._replace(**{field: np.where(lacking, getattr(old, field), getattr(new, field))})

    return with_new(change)


def _var_follows(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if not _keeps(config) or config.renorm is None or not stats.count.any():
        return new
    assert new.stddev is not None
    return new._replace(var=np.maximum(new.stddev**2 - config.epsilon, 0).astype(new.var.dtype))


def _lacking_left_out(stats: Moments, config: Any) -> Moments | None:
    if not _keeps(config) or config.ghost_source != "mean" or not (stats.count > 1).any():
        return None
    return stats._replace(count=np.where(stats.count == 1, 0, stats.count))


def _refusing(when: Callable[[Any], bool], **changes: Any) -> Override:
    """Refuse, besides, what an update under another configuration refuses."""

    def update(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
        if when(config) and config.single_value == "raise":
            plain = state._replace(count=None) if changes.get("averaging") == "exponential" else state
            original(plain, stats, dataclasses.replace(config, **changes), **named)
        return original(state, stats, config, **named)

    return override(update=update)


def _taking(source: str, enough: Callable[[Any], Any]) -> Override:
    """Divide by 1 under a ghost source whose groups are to be refused, where some count of them is enough."""

    def update(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
        taken = config.ghost_source == source and config.single_value == "raise" and len(stats.m2) > 1
        if taken and np.all(enough(stats.count) > config.correction):
            config = dataclasses.replace(config, single_value="floor")
        return original(state, stats, config, **named)

    return override(update=update)


MUTANTS = (
    Mutant(
        name="keep-keeps-the-mean",
        clause="BN-RUN-4",
        row="D3",
        breaks="Keeps the running mean too where one value is to keep the variance.",
        apply=_kept_where_one("mean", "exponential"),
    ),
    Mutant(
        name="keep-stops-the-counter",
        clause="BN-RUN-4",
        row="D3",
        breaks="Does not count the one value that a pooled state keeps its variance for.",
        apply=_kept_where_one("count", "pooled"),
    ),
    Mutant(
        name="keep-moves-deviations",
        clause="BN-RUN-4",
        row="D3",
        breaks="Keeps the variance for one value and moves renorm's deviations.",
        apply=_fields(_DEVIATIONS, lambda c: _keeps(c) and c.renorm is not None, single_value="floor"),
    ),
    Mutant(
        name="keep-lets-the-variance-follow",
        clause="BN-RUN-4",
        row="D3",
        breaks="Sets the variance that is to be kept to the square of the kept deviation less epsilon.",
        apply=with_new(_var_follows),
    ),
    Mutant(
        name="keep-averages-the-others",
        clause="BN-RUN-4",
        row="D3",
        breaks="Averages the groups that have a corrected variance where one that has none is to keep the old one.",
        apply=with_stats(_lacking_left_out),
    ),
    Mutant(
        name="first-refused-for-another",
        clause="BN-RUN-4",
        row="D3",
        breaks="Refuses one value in a group that feeds nothing, because the first alone does.",
        apply=_refusing(lambda c: c.ghost_source == "first", ghost_source="sequential"),
    ),
    Mutant(
        name="merged-refused-by-a-group",
        clause="BN-RUN-4",
        row="D3",
        breaks="Refuses one value of a group where it is the merged groups' count that matters.",
        apply=_refusing(lambda c: c.ghost_source == "merged", ghost_source="sequential"),
    ),
    Mutant(
        name="pooled-refused-by-the-batch",
        clause="BN-RUN-4",
        row="D3",
        breaks="Refuses one value although a pooled state has seen others.",
        apply=_refusing(lambda c: c.averaging == "pooled", averaging="exponential"),
    ),
    Mutant(
        name="sequential-refused-by-the-first",
        clause="BN-RUN-4",
        row="D3",
        breaks="Looks at the count of the first group alone where all feed in order.",
        apply=_taking("sequential", lambda count: count[:1]),
    ),
    Mutant(
        name="mean-refused-by-the-sum",
        clause="BN-RUN-4",
        row="D3",
        breaks="Looks at the count of all groups together where each variance of a mean has to exist.",
        apply=_taking("mean", lambda count: count.sum(axis=0)),
    ),
    Mutant(
        name="keep-beside-a-counter",
        clause="BN-RUN-4",
        row="D3",
        breaks='Takes single_value="keep" with averages whose counter would count what was not averaged.',
        apply=edit(
            BatchNormConfig.__post_init__,
            'if self.correction == 1 and self.single_value == "keep" and',
            "if False and",
        ),
    ),
    Mutant(
        name="pooled-mean-of-groups-taken",
        clause="BN-RUN-6",
        row="D8",
        breaks="Takes a mean of the groups' variances for elements that are to be pooled.",
        apply=edit(
            BatchNormConfig.__post_init__,
            'if self.averaging == "pooled" and self.ghost_source == "mean" and',
            "if False and",
        ),
    ),
    Mutant(
        name="skip-moves-the-reference",
        clause="BN-RUN-10",
        row="D17",
        breaks="Skips mean, variance and deviation, and lets NaN into renorm's reference.",
        apply=_fields(_REFERENCE, lambda c: _skips(c) and c.renorm is not None, nonfinite="propagate"),
    ),
)
