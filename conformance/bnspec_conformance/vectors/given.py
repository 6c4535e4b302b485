"""Arrays of a results file: hex floats, plain JSON numbers or base64, as whoever wrote it found easiest."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.codecs.codec import BadData, array_from_json
from bnspec_conformance.vectors.hex import hexed, unhexed

__all__ = ["given_values"]

Floats = npt.NDArray[np.float64]


def given_values(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], what: str, *, loose: bool = False) -> Floats:
    """Return the values of an output, as float64.

    Parameters
    ----------
    value : object
        A list of numbers, flat or nested as the shape is; an object with such a list as data, and perhaps a shape; or
        codec's object with base64. A hex float and base64 are exact; a JSON number is the nearest one of the dtype.
    dtype : dtype
        Of the output.
    shape : tuple of int
        Of the output.
    what : str
        Its name, for the error.
    loose : bool
        Whether a value may be one that the dtype does not hold.

    Raises
    ------
    BadData
        Saying what is wrong, and at which position.
    """
    if isinstance(value, dict) and isinstance(value.get("data"), str):
        array = array_from_json(value, what)
        assert array is not None
        given: tuple[int, ...] | None = array.shape
        flat = [float(v) for v in array.ravel()]
    else:
        given = None
        if isinstance(value, dict):
            given, value = _shape(value.get("shape"), what), value.get("data")
        if not isinstance(value, list):
            raise BadData(f"{what} is {_short(value)}; expected a list of numbers, or an object with data")
        if given is None and any(isinstance(v, list) for v in value):
            given = _nesting(value, what)
        flat = [_number(v, dtype, f"{what} has at position {i}") for i, v in enumerate(_leaves(value))]
    if given is not None and given != shape:
        raise BadData(f"{what} has shape {list(given)}; expected {list(shape)}")
    if len(flat) != math.prod(shape):
        raise BadData(f"{what} has {len(flat)} numbers; expected {math.prod(shape)}, for shape {list(shape)}")
    found = np.array(flat, dtype=np.float64)
    if not loose:
        _held(found, dtype, what)
    return found.reshape(shape)


def _number(value: Any, dtype: np.dtype[Any], where: str) -> float:
    try:
        if isinstance(value, str):
            return unhexed(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            wide = float(value)
            with np.errstate(over="ignore"):
                return wide if dtype.kind in "iu" else float(np.array(wide).astype(dtype))
    except (ValueError, OverflowError):
        pass
    raise BadData(f"{where} {_short(value)}; expected a hex float, a JSON number, nan, inf or -inf")


def _held(values: Floats, dtype: np.dtype[Any], what: str) -> None:
    """A result is a number of its dtype; anything else was never rounded to it."""
    with np.errstate(all="ignore"):
        there = values.astype(dtype).astype(np.float64)
    odd = np.flatnonzero(~((there == values) | (np.isnan(values) & (dtype.kind not in "iu"))))
    if odd.size:
        raise BadData(
            f"{what} has at position {int(odd[0])} {hexed(float(values[odd[0]]))}, which no {dtype.name} is; "
            f"expected values rounded to {dtype.name}"
        )


def _shape(value: Any, what: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        raise BadData(f"{what} has shape {_short(value)}; expected a list of integers >= 0")
    return tuple(value)


def _nesting(value: Any, what: str) -> tuple[int, ...]:
    """Return the shape of nested lists."""
    if not isinstance(value, list):
        return ()
    inner = {_nesting(v, what) for v in value}
    if len(inner) > 1:
        raise BadData(f"{what} is a list of lists of different lengths; expected one shape throughout")
    return (len(value), *(inner.pop() if inner else ()))


def _leaves(value: list[Any]) -> Iterator[Any]:
    for item in value:
        if isinstance(item, list):
            yield from _leaves(item)
        else:
            yield item


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
