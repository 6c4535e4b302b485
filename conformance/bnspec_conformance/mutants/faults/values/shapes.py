"""Mutants of shapes: axes, dtypes that are taken, and arrays that are written."""

from typing import Any

import numpy as np

from bnspec import batch_norm, batch_norm_vjp
from bnspec._checks import arguments, arrays
from bnspec._errors import refusal
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _rank_1_taken(original: Any, x: Any, name: str) -> None:
    original(x[None] if isinstance(x, np.ndarray) and x.ndim == 1 else x, name)


def _first_slice_at_rank_5(original: Any, x: Any, groups: Any, mask: Any) -> Any:
    if x.ndim == 5 and groups.axis != 4 and mask is None:
        x = x[..., :1]
    return original(x, groups, mask)


def _axis_off_by_one(original: Any, x: Any, config: Any, name: str) -> int:
    return int(original(x, config, name) - (config.axis < 0)) % int(x.ndim)


def _into_x(original: Any, x: Any, *rest: Any) -> Any:
    y = original(x, *rest)
    if not x.flags.writeable:
        return y
    x[...] = y
    return x


def _into_dy(original: Any, dy: Any, saved: Any, *rest: Any, **named: Any) -> Any:
    gradients = original(dy, saved, *rest, **named)
    if dy.dtype != gradients.x.dtype:
        return gradients
    dy[...] = gradients.x
    return gradients._replace(x=dy)


def _no_channels(original: Any, x: Any, name: str) -> None:
    original(x, name)
    if 0 in x.shape[1:]:
        raise refusal(ValueError, "BN-SHAPE-4", got=f"{name}: no channels", expected="some", do="Pass channels.")


def _as_float(original: Any, x: Any, *rest: Any, **named: Any) -> Any:
    return original(x.astype("float32") if x.dtype.kind in "iub" else x, *rest, **named)


def _complex_taken(original: Any, what: str, x: Any, name: str) -> None:
    original(what, x.real if isinstance(x, np.ndarray) and x.dtype.kind == "c" else x, name)


def _one_for_all(original: Any, label: str, value: Any, *rest: Any) -> None:
    if tuple(getattr(value, "shape", ())) != (1,):
        original(label, value, *rest)


MUTANTS = (
    Mutant(
        name="rank-1",
        clause="BN-SHAPE-1",
        breaks="Takes x of rank 1, as one sample.",
        apply=wrap(arguments._ranked, _rank_1_taken),
    ),
    Mutant(
        name="rank-5-in-part",
        clause="BN-SHAPE-2",
        breaks="Leaves the last axis out of the reduction at rank 5; its first entry stands for all.",
        apply=override(moments=_first_slice_at_rank_5),
    ),
    Mutant(
        name="negative-axis-off-by-one",
        clause="BN-SHAPE-2",
        breaks="Counts a negative axis from the axis before the last.",
        apply=wrap(arguments.channel_axis, _axis_off_by_one),
    ),
    Mutant(
        name="in-place",
        clause="BN-SHAPE-3",
        breaks="Writes y over x and returns x.",
        apply=override(normalize=_into_x),
    ),
    Mutant(
        name="in-place-gradient",
        clause="BN-SHAPE-3",
        breaks="Writes dx over dy and returns dy.",
        apply=wrap(batch_norm_vjp, _into_dy),
    ),
    Mutant(
        name="no-channels",
        clause="BN-SHAPE-4",
        breaks="Refuses x without channels.",
        apply=wrap(arguments._ranked, _no_channels),
    ),
    Mutant(
        name="integers-converted",
        clause="BN-SHAPE-5",
        row="D28",
        breaks="Converts an x of integers or booleans to float32 and goes on.",
        apply=wrap(batch_norm, _as_float),
    ),
    Mutant(
        name="complex-taken",
        clause="BN-SHAPE-5",
        row="D28",
        breaks="Takes complex x.",
        apply=wrap(arrays.floating, _complex_taken),
    ),
    Mutant(
        name="broadcast-parameters",
        clause="BN-SHAPE-6",
        breaks="Takes parameters and states of one value for all channels.",
        apply=wrap(arrays.vector, _one_for_all),
    ),
)
