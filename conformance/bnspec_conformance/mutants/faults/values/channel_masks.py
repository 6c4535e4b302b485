"""Mutants of masks of the channels' own, of masks without the channel axis, and of lengths."""

from typing import Any

import numpy as np

from bnspec import Moments
from bnspec._checks import arrays, elements
from bnspec._masks import mask_of
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import with_moments
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import with_stats

__all__ = ["MUTANTS"]


def _of_the_first(original: Any, x: Any, groups: Any, mask: Any) -> Moments:
    if mask is not None and mask.shape[groups.axis] > 1:
        mask = mask.take([0], axis=groups.axis)
    return original(x, groups, mask)  # type: ignore[no-any-return]


def _one_count(m: Moments, *about: Any) -> Moments:
    """Give all channels the largest count among them."""
    if m.count.ndim == 1:
        return m
    return m._replace(count=np.broadcast_to(m.count.max(axis=1, keepdims=True), m.count.shape).copy())


def _one_divisor(original: Any, *given: Any, **more: Any) -> Any:
    stats, done = original(*given, **more)
    if more.get("mask") is not None and done.divisor.ndim == 2 and done.divisor.size:
        first = np.broadcast_to(done.divisor[:, :1], done.divisor.shape)
        done = done._replace(divisor=first)
    return stats, done


def _first_count_joined(original: Any, *given: Any, **more: Any) -> Any:
    stats, done = original(*given, **more)
    if more.get("comm") is not None and stats.count.size:
        stats = stats._replace(count=np.broadcast_to(stats.count[:, :1], stats.count.shape).copy())
    return stats, done


def _empty_fed(stats: Moments, config: Any) -> Moments | None:
    return stats._replace(count=np.maximum(stats.count, 1)) if stats.count.ndim == 2 else None


def _few_counted(stats: Moments, config: Any) -> Moments | None:
    """Count one element more than the correction, at least, where channels have counts of their own."""
    if stats.count.ndim == 1 or config.single_value != "raise":
        return None
    least = config.correction + 1
    return stats._replace(count=np.where(stats.count > 0, np.maximum(stats.count, least), 0))


def _second(original: Any, x: Any, axis: int, mask: Any, lengths: Any) -> Any:
    if mask is not None and mask.ndim < x.ndim:
        return np.expand_dims(mask, 1)
    return original(x, axis, mask, lengths)


def _one_more(original: Any, x: Any, axis: int, mask: Any, lengths: Any) -> Any:
    return original(x, axis, mask, lengths if lengths is None else lengths + 1)


def _unchecked(original: Any, *given: Any) -> None:
    """Refuse nothing."""


MUTANTS = (
    Mutant(
        name="mask-of-the-first-channel",
        clause="BN-MASK-8",
        breaks="Takes the mask of the first channel for all.",
        apply=override(moments=_of_the_first),
    ),
    Mutant(
        name="largest-count-of-the-channels",
        clause="BN-MASK-8",
        breaks="Divides the sums of all channels by the count of the fullest one.",
        apply=with_moments(_one_count),
    ),
    Mutant(
        name="divisor-of-the-first-channel",
        clause="BN-MASK-8",
        breaks="Divides the gradient sums of all channels by the count of the first.",
        apply=override(forward=_one_divisor),
    ),
    Mutant(
        name="first-count-of-all-ranks",
        clause="BN-MASK-8",
        breaks="Joins the counts of the first channel alone across ranks.",
        apply=override(forward=_first_count_joined),
    ),
    Mutant(
        name="empty-channel-feeds-zeros",
        clause="BN-MASK-5",
        breaks="Pulls the running statistics of a channel that holds nothing towards 0.",
        apply=with_stats(_empty_fed),
    ),
    Mutant(
        name="one-value-of-one-channel-fed",
        clause="BN-MASK-8",
        breaks="Feeds a variance where one channel alone has too few values for the correction.",
        apply=with_stats(_few_counted),
    ),
    Mutant(
        name="missing-axis-taken-for-axis-1",
        clause="BN-MASK-7",
        breaks="Takes the axis that a mask lacks for axis 1, wherever the channels are.",
        apply=wrap(mask_of, _second),
    ),
    Mutant(
        name="lengths-one-too-long",
        clause="BN-MASK-9",
        breaks="Counts the element at the position of the length too.",
        apply=wrap(mask_of, _one_more),
    ),
    Mutant(
        name="lengths-as-mask",
        clause="BN-MASK-9",
        breaks="Takes lengths of any number and dtype, and any beside a mask.",
        apply=wrap(arrays.lengths, _unchecked),
    ),
    Mutant(
        name="lengths-of-any-value",
        clause="BN-MASK-9",
        breaks="Takes lengths below 0 and beyond the extent of the sequences.",
        apply=wrap(elements.lengths_values, _unchecked),
    ),
)
