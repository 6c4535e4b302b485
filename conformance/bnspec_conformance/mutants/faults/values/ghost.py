"""Mutants of ghost batches: which samples make a group, and which groups feed the running statistics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import BatchNormConfig, Groups, Moments
from bnspec._checks import arguments
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import measured_from
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import configured, with_stats

__all__ = ["MUTANTS"]


def _sample_groups(original: Any, x: Any, params: Any, config: Any, *rest: Any) -> Any:
    found = original(x, params, config, *rest)
    return found if config.virtual_batch_size or not found.axis else Groups(found.axis, max(x.shape[0], 1))


def _ragged_as_one(original: Any, x: Any, params: Any, config: Any, *rest: Any) -> Any:
    if config.virtual_batch_size and x.shape[0] % config.virtual_batch_size:
        config = dataclasses.replace(config, virtual_batch_size=None)
    return original(x, params, config, *rest)


def _interleaved(original: Any, x: Any, *rest: Any) -> Any:
    """Behave as a primitive that takes every G-th sample into a group."""
    groups = next(v for v in rest if isinstance(v, Groups))
    if groups.number < 2:
        return original(x, *rest)
    order = np.arange(len(x)).reshape(-1, groups.number).T.ravel()
    # Arrays of shape (G, C) are as long as x only where a group is one sample, and then the order is the same.
    found = original(*(v[order] if isinstance(v, np.ndarray) and len(v) == len(x) else v for v in (x, *rest)))
    return found[np.argsort(order)] if isinstance(found, np.ndarray) else found


def _fed(source: str, change: Callable[[Moments], Moments | None]) -> Override:
    """Feed other groups under one ghost source."""
    return with_stats(lambda stats, config: change(stats) if config.ghost_source == source else None)


def _as_mean(source: str) -> Override:
    """Feed the mean of the groups under another ghost source; elements cannot be pooled so."""

    def when(config: BatchNormConfig) -> bool:
        return config.ghost_source == source and config.averaging != "pooled"

    return override(update=configured(when, ghost_source="mean"))


def _rows(stats: Moments, rows: Any) -> Moments:
    return Moments(*(v[rows] for v in stats))


def _shared_among_all(stats: Moments) -> Moments:
    share = np.mean(stats.count > 0) if len(stats.count) and stats.count.any() else 1.0
    return Moments(stats.count, *(v * share for v in stats[1:]))


def _first_held(stats: Moments) -> Moments:
    held = np.flatnonzero(stats.count)[:1]
    return _rows(stats, held) if held.size else stats


MUTANTS = (
    Mutant(
        name="group-per-sample",
        clause="BN-GRP-1",
        breaks="Normalizes every sample by itself where no virtual batch size is given.",
        apply=wrap(arguments.forward, _sample_groups),
    ),
    Mutant(
        name="interleaved-groups",
        clause="BN-GRP-2",
        row="D7",
        breaks="Takes every G-th sample into a group where a group is a run of samples.",
        apply=override(
            **dict.fromkeys(("moments", "normalize", "grad_sums", "grad_input"), _interleaved),
        ),
    ),
    Mutant(
        name="ragged-groups",
        clause="BN-GRP-3",
        row="D8",
        breaks="Takes a batch that the virtual batch size does not divide, as one group.",
        apply=wrap(arguments.forward, _ragged_as_one),
    ),
    Mutant(
        name="fractional-group-size",
        clause="BN-GRP-3",
        breaks="Takes a virtual batch size that is no integer.",
        apply=edit(
            BatchNormConfig.__post_init__,
            "if self.virtual_batch_size is not None:",
            "if isinstance(self.virtual_batch_size, int):",
        ),
    ),
    Mutant(
        name="groups-share-a-mean",
        clause="BN-GRP-4",
        breaks="Measures every group from the largest element of the first.",
        apply=measured_from(lambda v, axes: np.max(v, axis=axes)[:1] + np.zeros((len(v), 1))),
    ),
    Mutant(
        name="source-last",
        clause="BN-RUN-8",
        row="D8",
        breaks='Feeds the last group where ghost_source is "first".',
        apply=_fed("first", lambda stats: _rows(stats, slice(-1, None))),
    ),
    Mutant(
        name="source-mean-for-first",
        clause="BN-RUN-8",
        row="D8",
        breaks='Feeds the mean of the groups where ghost_source is "first".',
        apply=_as_mean("first"),
    ),
    Mutant(
        name="merged-as-mean",
        clause="BN-RUN-8",
        row="D8",
        breaks="Feeds the mean of the groups' variances as the merged one, without what lies between the groups.",
        apply=_as_mean("merged"),
    ),
    Mutant(
        name="sequential-in-reverse",
        clause="BN-RUN-8",
        row="D8",
        breaks="Feeds the groups from the last to the first.",
        apply=_fed("sequential", lambda stats: _rows(stats, slice(None, None, -1))),
    ),
    Mutant(
        name="sequential-as-one",
        clause="BN-RUN-8",
        row="D8",
        breaks='Updates once, with the mean of the groups, where ghost_source is "sequential".',
        apply=_as_mean("sequential"),
    ),
    Mutant(
        name="empty-groups-in-the-mean",
        clause="BN-RUN-8",
        row="D10",
        breaks="Divides the mean of the groups by their number, those without elements included.",
        apply=_fed("mean", _shared_among_all),
    ),
    Mutant(
        name="first-that-holds-something",
        clause="BN-RUN-8",
        row="D10",
        breaks="Feeds the first group that is not empty where group 0 is.",
        apply=_fed("first", _first_held),
    ),
)
