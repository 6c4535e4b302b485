"""Mutants of masks: what a masked element adds to, and what becomes of it."""

from typing import Any

import numpy as np

from bnspec import Moments, batch_norm
from bnspec._checks import arrays
from bnspec._gradients import usable_part
from bnspec._groups import spread
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import about, kept, total, wide, with_moments, with_y
from bnspec_conformance.mutants.overriding import Override, inside, override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import feeding_empty

__all__ = ["MUTANTS"]


def _masked(change: Any) -> Override:
    """Take other moments where there is a mask: ``change(moments, x, groups, mask)``."""
    return with_moments(lambda m, x, groups, mask: m if mask is None else change(m, x, groups, mask))


def _divisor(m: Moments) -> Any:
    return np.maximum(m.count, 1)[:, None]


def _in_the_mean(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    return about(m, total(wide(x, groups), x, groups) / _divisor(m), x, groups, mask)


def _in_the_variance(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    return m._replace(m2=total((wide(x, groups) - spread(m.mean, x, groups)) ** 2, x, groups))


def _padded(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    n = m.count[:, None]
    return about(m, m.mean * (n / (n + 1e-7)), x, groups, mask)


def _times_zero(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    masked = np.where(kept(x, groups, mask), 0.0, wide(x, groups))
    nothing = total(masked * 0.0, x, groups)
    return m._replace(mean=m.mean + nothing, m2=m.m2 + nothing)


def _samples_counted(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    if mask.size > len(mask):
        return m
    return m._replace(count=np.full_like(m.count, x.size // (x.shape[groups.axis] * groups.number)))


def _nan_summed(original: Any, dy: Any, saved: Any, **more: Any) -> Any:
    def grad_sums(original: Any, dy: Any, x: Any, centre: Any, groups: Any, mask: Any) -> Any:
        return original(dy, saved.x, centre, groups, None)

    return inside(grad_sums=grad_sums)(original, dy, saved, **more)


def _cotangents_dropped(original: Any, dy: Any, saved: Any, **more: Any) -> Any:
    def grad_sums(original: Any, dy: Any, x: Any, centre: Any, groups: Any, mask: Any) -> Any:
        return original(dy, x, centre, groups, saved.mask)

    return inside(grad_sums=grad_sums)(original, dy, saved, **more)


def _selected(y: Any, x: Any, mask: Any, other: Any) -> Any:
    """Return y where the mask is true, whose channel size is 1."""
    return np.where(np.broadcast_to(mask, x.shape), y, other)


def _nonzero(original: Any, *given: Any, mask: Any = None, **named: Any) -> Any:
    return original(*given, mask=mask.astype("bool") if hasattr(mask, "astype") else mask, **named)


def _data_taken(original: Any, what: str, x: Any, name: str) -> None:
    original(what, x.data if isinstance(x, np.ma.MaskedArray) else x, name)


def _any_shape(original: Any, x: Any, axis: int, mask: Any, name: str, **more: Any) -> None:
    if str(getattr(mask, "dtype", None)) != "bool":
        original(x, axis, mask, name, **more)


MUTANTS = (
    Mutant(
        name="masked-in-the-mean",
        clause="BN-MASK-1",
        row="D14",
        breaks="Sums masked elements into the mean, and divides by the unmasked count.",
        apply=_masked(_in_the_mean),
    ),
    Mutant(
        name="masked-in-the-variance",
        clause="BN-MASK-1",
        row="D14",
        breaks="Sums the squares of masked elements into the variance.",
        apply=_masked(_in_the_variance),
    ),
    Mutant(
        name="mask-ignored",
        clause="BN-MASK-1",
        row="D14",
        breaks="Drops the mask.",
        apply=wrap(batch_norm, lambda original, *given, **named: original(*given, **(named | {"mask": None}))),
    ),
    Mutant(
        name="masked-count-padded",
        clause="BN-MASK-1",
        row="D14",
        breaks="Divides by count + 1e-7, so that no division by 0 occurs.",
        apply=_masked(_padded),
    ),
    Mutant(
        name="masked-output-zero",
        clause="BN-MASK-2",
        row="D14",
        breaks="Gives 0 for y at masked positions.",
        apply=with_y(lambda y, x, mask: _selected(y, x, mask, np.zeros_like(y))),
    ),
    Mutant(
        name="masked-output-x",
        clause="BN-MASK-2",
        row="D14",
        breaks="Hands x through at masked positions.",
        apply=with_y(lambda y, x, mask: _selected(y, x, mask, x)),
    ),
    Mutant(
        name="mask-multiplies",
        clause="BN-MASK-3",
        row="D17",
        breaks="Multiplies by the mask where it should select, so that NaN*0 enters the sums.",
        apply=_masked(_times_zero),
    ),
    Mutant(
        name="masked-nan-in-gradients",
        clause="BN-MASK-3",
        row="D17",
        breaks="Lets a masked NaN into sum g*xhat.",
        apply=override(pull_back=_nan_summed),
    ),
    Mutant(
        name="masked-nan-in-tangents",
        clause="BN-MASK-3",
        row="D17",
        breaks="Lets a masked NaN into its own dx and tangent.",
        apply=wrap(usable_part, lambda original, x, saved: (x, original(x, saved)[1])),
    ),
    Mutant(
        name="masked-cotangents-dropped",
        clause="BN-MASK-4",
        row="D14",
        breaks="Leaves g of masked positions out of the sums, although their y depends on the statistics.",
        apply=override(pull_back=_cotangents_dropped),
    ),
    Mutant(
        name="masked-dx-of-statistics",
        clause="BN-MASK-4",
        row="D14",
        breaks="Gives masked positions the part of dx that comes through the statistics.",
        apply=override(grad_input=lambda original, *given: original(*given[:-1], None)),
    ),
    Mutant(
        name="all-masked-divides-by-zero",
        clause="BN-MASK-5",
        row="D14",
        breaks="Divides by the count 0 of a group without elements.",
        apply=_masked(lambda m, *given: m._replace(mean=m.mean / (m.count > 0)[:, None])),
    ),
    Mutant(
        name="all-masked-feeds-zeros",
        clause="BN-MASK-5",
        row="D14",
        breaks="Pulls the running statistics towards 0 by a batch that is masked altogether.",
        apply=feeding_empty(0.0),
    ),
    Mutant(
        name="masked-samples-counted",
        clause="BN-MASK-6",
        row="D14",
        breaks="Counts masked samples where it leaves whole samples out of the sums.",
        apply=_masked(_samples_counted),
    ),
    Mutant(
        name="numbers-as-mask",
        clause="BN-MASK-7",
        row="D28",
        breaks="Takes a mask of numbers.",
        apply=wrap(batch_norm, _nonzero),
    ),
    Mutant(
        name="masked-array-taken",
        clause="BN-MASK-7",
        row="D14",
        breaks="Takes an array with a mask of its own, and honours it here and there.",
        apply=wrap(arrays.floating, _data_taken),
    ),
    Mutant(
        name="mask-of-any-shape",
        clause="BN-MASK-7",
        row="D14",
        breaks="Looks at the dtype of a mask, and not at its shape.",
        apply=wrap(arrays.mask, _any_shape),
    ),
)
