"""Layouts of an array in memory: the same values at other places, for every array of a case.

`placed` makes the array of any library that has strides; `arranged` a case of NumPy arrays. A layout is a word of
`KINDS`; the arrays of a case have the names of `ROLES`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case

__all__ = [
    "KINDS",
    "PLAIN",
    "ROLES",
    "apart",
    "arranged",
    "arrays_of",
    "constant_where_repeated",
    "kinds_of",
    "named_arrays",
    "placed",
    "thin",
]

#: Arrays of a case, those of a state by the fields of ``bnspec.RunningState``.
ROLES = (
    "x", "dy", "xdot", "mask", "gamma", "beta", "gamma_dot", "beta_dot", "dmean", "dvar", "mean", "var", "count",
    "stddev", "renorm_mean", "renorm_stddev",
)  # fmt: skip
_OF_RANKS, _OF_STATE = ROLES[:4], ROLES[10:]

PLAIN = "plain"
KINDS: Mapping[str, str] = {
    PLAIN: "row by row, without gaps",
    "transposed": "the axes in the opposite order",
    "rotated": "the last axis outermost, behind it the others in their order",
    "strided": "every second element of each axis, from an offset",
    "offset": "without gaps, from an odd offset",
    "reversed": "from the end: negative strides",
    "repeated": "zero strides along axis 0, where all values are equal",
    "unaligned": "at an address that is no multiple of an element's size",
    "swapped": "bytes in the opposite order",
}

#: What lies beside the values: it is read only by mistake, and then it shows.
_BESIDE = 7

Put = Callable[[Array], Any]


def kinds_of(library: str | None) -> tuple[str, ...]:
    """Return the layouts that arrays have.

    Parameters
    ----------
    library : str or None
        Name of bnspec's backend; None for a subject that is given NumPy arrays, in the byte order of the machine.
    """
    without = {
        "numpy": (),
        "torch": ("reversed", "unaligned", "swapped"),
        None: ("swapped",),
    }.get(library, ("unaligned", "swapped"))
    return tuple(kind for kind in KINDS if kind not in without)


def placed(values: Array, kind: str, put: Put = np.asarray) -> Any:
    """Return an array with these values and a layout.

    Parameters
    ----------
    values : array
        "repeated" takes those of index 0 on axis 0 for all.
    kind : str
        Of `KINDS`; an array that cannot have the layout, for its rank, size or dtype, gets the plain one.
    put : callable
        Makes an array of a library out of a NumPy array without gaps, row by row.
    """
    shape: tuple[int, ...] = values.shape
    values = np.ascontiguousarray(values).reshape(shape)
    if kind == PLAIN or not values.size or not values.ndim:
        return put(values)
    if kind in ("transposed", "rotated"):
        axes = tuple(range(values.ndim))
        order = axes[::-1] if kind == "transposed" else (*axes[-1:], *axes[:-1])
        return _permuted(put(np.ascontiguousarray(values.transpose(order))), tuple(int(a) for a in np.argsort(order)))
    if kind == "strided":
        room = np.full([2 * extent + 3 for extent in shape], _BESIDE, values.dtype)
        places = tuple(slice(1, 2 * extent + 1, 2) for extent in shape)
        room[places] = values
        return put(room)[places]
    if kind == "offset":
        room = np.full(values.size + 3, _BESIDE, values.dtype)
        room[1 : values.size + 1] = values.ravel()
        return _reshaped(put(room)[1 : values.size + 1], values.shape)
    if kind == "reversed":
        back = (slice(None, None, -1),) * values.ndim
        return put(np.ascontiguousarray(values[back]))[back]
    if kind == "repeated":
        return _broadcast(put(np.ascontiguousarray(values[:1])), values.shape)
    if kind == "unaligned":
        made = np.empty(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
        made[...] = values
        return made
    return values.astype(values.dtype.newbyteorder("S")) if values.dtype.kind in "fiu" else put(values)


def arrays_of(case: Case) -> dict[str, list[Array]]:
    """Return the arrays of a case by their roles; several where each rank has one."""
    found = {role: [getattr(r, role) for r in case.ranks] for role in _OF_RANKS}
    found |= {role: [getattr(case, role)] for role in ROLES[4:8]}
    found |= {role: list(getattr(case, role) or ()) for role in ROLES[8:10]}
    found |= {role: [(case.state or {}).get(role)] for role in _OF_STATE}
    return {role: [v for v in arrays if v is not None] for role, arrays in found.items()}


def named_arrays(case: Case) -> list[tuple[str, Array]]:
    """Return every array of a case with its name, those of the state as ``state.mean``."""
    found = arrays_of(case).items()
    return [(f"state.{role}" if role in _OF_STATE else role, v) for role, arrays in found for v in arrays]


def arranged(case: Case, layouts: Mapping[str, str]) -> Case:
    """Return the case with each array in the layout of its role, or the plain one."""
    return _changed(case, lambda role, values: placed(values, layouts.get(role, PLAIN)))


def apart(case: Case) -> Case:
    """Return the case with an array of its own for each, row by row."""
    return _changed(case, lambda role, values: np.array(values, order="C"))


def constant_where_repeated(case: Case, layouts: Mapping[str, str]) -> Case:
    """Return the case with arrays of the same values along axis 0 where their layout repeats them."""

    def change(role: str, values: Array) -> Array:
        if layouts.get(role) != "repeated" or not values.size:
            return values
        return np.ascontiguousarray(np.broadcast_to(values[:1], values.shape))

    return _changed(case, change)


def thin(values: Array) -> Array:
    """Return the elements that are there: of an axis that memory does not have, one."""
    absent = [extent > 1 and not stride for extent, stride in zip(values.shape, values.strides, strict=True)]
    return values[tuple(slice(0, 1) if repeated else slice(None) for repeated in absent)]


def _changed(case: Case, change: Callable[[str, Array], Array]) -> Case:
    def one(role: str, values: Array | None) -> Any:
        return None if values is None else change(role, values)

    ranks = tuple(
        dataclasses.replace(r, **{role: one(role, getattr(r, role)) for role in _OF_RANKS}) for r in case.ranks
    )
    fields: dict[str, Any] = {role: one(role, getattr(case, role)) for role in ROLES[4:8]}
    for role in ROLES[8:10]:
        given = getattr(case, role)
        fields[role] = None if given is None else tuple(one(role, v) for v in given)
    state = None if case.state is None else {k: one(k, v) for k, v in case.state.items()}
    return dataclasses.replace(case, ranks=ranks, state=state, **fields)


def _permuted(made: Any, order: tuple[int, ...]) -> Any:
    if isinstance(made, np.ndarray):
        return made.transpose(order)
    if hasattr(made, "permute"):
        return made.permute(order)
    from array_api_compat import array_namespace

    return array_namespace(made).permute_dims(made, order)


def _reshaped(made: Any, shape: tuple[int, ...]) -> Any:
    if tuple(made.shape) == shape:
        return made
    if isinstance(made, np.ndarray):
        return made.reshape(shape)
    from array_api_compat import array_namespace

    return array_namespace(made).reshape(made, shape)


def _broadcast(made: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(made, np.ndarray):
        return np.broadcast_to(made, shape)
    from array_api_compat import array_namespace

    return array_namespace(made).broadcast_to(made, shape)
