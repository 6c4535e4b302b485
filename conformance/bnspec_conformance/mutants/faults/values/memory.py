"""Mutants of memory: right where every array lies alike and alone, wrong where one lies otherwise or two are one."""

from typing import Any

import numpy as np

from bnspec import Params, RunningState
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import with_params
from bnspec_conformance.mutants.overriding import override

__all__ = ["MUTANTS"]


def _order(array: Any) -> tuple[int, ...]:
    """Return the axes of an array from the outermost in memory to the innermost."""
    return tuple(sorted(range(array.ndim), key=lambda a: (-array.strides[a], a)))


def _in_order_of(other: Any, array: Any) -> Any:
    """Return the elements of an array as they lie in memory, read in the order that another's axes have there."""
    if not isinstance(array, np.ndarray) or array.shape != other.shape or min((*array.strides, *other.strides)) <= 0:
        return array
    order = _order(other)
    lying = array.transpose(_order(array)).reshape(-1)
    return lying.reshape([array.shape[a] for a in order]).transpose(np.argsort(order))


def _dy_like_x(original: Any, dy: Any, saved: Any, **more: Any) -> Any:
    return original(_in_order_of(saved.x, dy), saved, **more)


def _without_gaps(values: Any) -> Any:
    """Return as many elements from where an array begins, whatever its stride."""
    if values is None or not isinstance(values, np.ndarray) or values.ndim != 1 or values.strides[0] <= values.itemsize:
        return values
    return np.lib.stride_tricks.as_strided(values, strides=(values.itemsize,)).copy()


def _dense_params(params: Params) -> Params:
    return Params(*(_without_gaps(v) for v in params))


def _dense_state(original: Any, state: Any, *rest: Any, **named: Any) -> Any:
    return original(RunningState(*(_without_gaps(v) for v in state)), *rest, **named)


def _workspace(original: Any, dy: Any, x: Any, centre: Any, groups: Any, mask: Any) -> Any:
    """Use dy as workspace while its sums are taken, and put it right again; doubling is exact."""
    if not dy.flags.writeable or not dy.size or not np.all(np.isfinite(dy)) or np.max(np.abs(dy)) > 1e4:
        return original(dy, x, centre, groups, mask)
    dy *= 2
    try:
        return tuple(s / 2 for s in original(dy, x, centre, groups, mask))
    finally:
        dy /= 2


MUTANTS = (
    Mutant(
        name="dy-in-the-order-of-x",
        clause="BN-DET-2",
        breaks="Reads dy in the order that x's axes have in memory.",
        apply=override(pull_back=_dy_like_x),
    ),
    Mutant(
        name="parameters-without-strides",
        clause="BN-DET-2",
        breaks="Reads gamma and beta as if their elements lay side by side.",
        apply=with_params(_dense_params),
    ),
    Mutant(
        name="state-without-strides",
        clause="BN-DET-2",
        breaks="Reads the running state as if its elements lay side by side.",
        apply=override(update=_dense_state),
    ),
    Mutant(
        name="dy-as-workspace",
        clause="BN-DET-2",
        breaks="Doubles dy in place while it sums, and halves it afterwards, with x in the same memory too.",
        apply=override(grad_sums=_workspace),
    ),
)
