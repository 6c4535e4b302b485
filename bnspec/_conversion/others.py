"""Places of arrays that belong to no layer of batch normalization, in a file that the user writes.

A kernel of a convolution has other names and another order of axes in each framework. Nothing in a checkpoint says
which array is one, so the user says it, array by array:

    {"arrays": {"conv1.weight": {"name": "params/conv1/kernel", "axes": [2, 3, 1, 0]}}}

Both words may be left out: the array keeps its name, or the order of its axes.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from bnspec._errors import refusal
from bnspec._files.json_object import json_object

__all__ = ["Place", "Placed", "checked_places", "placed", "read_places"]


class Placed(NamedTuple):
    """Array that was given a place, for the report."""

    name: str
    shape: tuple[int, ...]
    place: "Place"
    new_shape: tuple[int, ...]


class Place(NamedTuple):
    """Place of one array in the target."""

    name: str
    axes: tuple[int, ...] | None  # axes of the source, in the order of the target; None leaves them as they are


def read_places(text: str) -> dict[str, Place]:
    """Return the places in a file's text, by the arrays' names in the source.

    Raises
    ------
    ValueError
        For text that is no such file [BN-STATE-5].

    Examples
    --------
    >>> read_places('{"arrays": {"conv.weight": {"axes": [2, 3, 1, 0]}}}')
    {'conv.weight': Place(name='conv.weight', axes=(2, 3, 1, 0))}
    """
    content = json_object(text, "arrays", ("arrays",), _unread)
    if "arrays" not in content:
        raise _unread('JSON without an object "arrays"')
    return {name: _place(name, given) for name, given in content["arrays"].items()}


def _place(name: str, given: Any) -> Place:
    if not isinstance(given, dict):
        raise _unread(f"the place of {name!r}, which is no object of name and axes")
    if unknown := sorted(set(given) - {"name", "axes"}):
        raise _unread(f"the place of {name!r} with the unknown word {unknown[0]!r}")
    new, axes = given.get("name", name), given.get("axes")
    if not isinstance(new, str) or not new:
        raise _unread(f"a name for {name!r} that is no text")
    if axes is None:
        return Place(new, None)
    whole = isinstance(axes, list) and all(type(a) is int for a in axes)
    if not whole or sorted(axes) != list(range(len(axes))):
        raise _unread(f"axes of {name!r} that are not each of 0, 1, ... once")
    return Place(new, tuple(axes))


def checked_places(places: Mapping[str, Place], free: Collection[str]) -> None:
    """Refuse places of arrays that are not there, or that a layer has [BN-STATE-5]."""
    absent = sorted(set(places) - set(free))
    if absent:
        known = ", ".join(map(repr, list(free)[:20])) or "none"
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"places of {', '.join(map(repr, absent[:5]))}",
            expected=f"arrays of the source that belong to no layer of batch normalization: {known}",
            do="Arrays are named as in the source; layers get their names by --rename.",
        )


def placed(name: str, array: Any, place: Place) -> Any:
    """Return an array with its axes in the order of its place."""
    if place.axes is None:
        return array
    if array.ndim != len(place.axes):
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"{len(place.axes)} axes for {name!r} of shape {array.shape}",
            expected=f"{array.ndim}",
            do="Name every axis of the source once, in the order of the target.",
        )
    return array.transpose(place.axes).copy()


def _unread(got: str) -> Exception:
    return refusal(
        ValueError,
        "BN-STATE-5",
        got=got,
        expected='{"arrays": {name: {"name": new name, "axes": [order of the axes]}}}',
        do="Name the arrays of the source that are to move.",
    )
