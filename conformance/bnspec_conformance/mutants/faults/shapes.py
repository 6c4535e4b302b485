"""Mutants of shapes: axes, dtypes that are taken, and arrays that are written."""

from typing import Any

from bnspec._batch_norm import batch_norm
from bnspec._checks import arguments, arrays
from bnspec._derivatives import batch_norm_vjp
from bnspec._moments import moments
from bnspec._normalize import normalize
from bnspec_conformance.mutants.mutant import Mutant, edit, wrap

__all__ = ["MUTANTS"]


def _first_slice_at_rank_5(original: Any, x: Any, groups: Any, mask: Any) -> Any:
    if x.ndim == 5 and groups.axis != 4 and mask is None:
        x = x[..., :1]
    return original(x, groups, mask)


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


def _as_float(original: Any, x: Any, *rest: Any, **named: Any) -> Any:
    return original(x.astype("float32") if x.dtype.kind in "iub" else x, *rest, **named)


MUTANTS = (
    Mutant(
        name="rank-1",
        clause="BN-SHAPE-1",
        breaks="Takes x of rank 1, as one sample.",
        apply=edit(arguments._ranked, "if x.ndim < 2:", "if x.ndim < 1:"),
    ),
    Mutant(
        name="rank-5-in-part",
        clause="BN-SHAPE-2",
        breaks="Leaves the last axis out of the reduction at rank 5; its first entry stands for all.",
        apply=wrap(moments, _first_slice_at_rank_5),
    ),
    Mutant(
        name="negative-axis-off-by-one",
        clause="BN-SHAPE-2",
        breaks="Counts a negative axis from the axis before the last.",
        apply=edit(
            arguments.channel_axis,
            "return config.axis % int(x.ndim)",
            "return (config.axis - (config.axis < 0)) % int(x.ndim)",
        ),
    ),
    Mutant(
        name="in-place",
        clause="BN-SHAPE-3",
        breaks="Writes y over x and returns x.",
        apply=wrap(normalize, _into_x),
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
        apply=edit(arguments._ranked, "if x.ndim < 2:", "if x.ndim < 2 or 0 in x.shape[1:]:"),
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
        apply=edit(
            arrays.floating,
            "if dtype_name(x.dtype) not in FLOATING:",
            'if dtype_name(x.dtype) not in (*FLOATING, "complex64", "complex128"):',
        ),
    ),
    Mutant(
        name="broadcast-parameters",
        clause="BN-SHAPE-6",
        breaks="Takes parameters and states of one value for all channels.",
        apply=edit(
            arrays.vector,
            "if tuple(value.shape) != (x.shape[axis],):",
            "if tuple(value.shape) not in ((x.shape[axis],), (1,)):",
        ),
    ),
)
