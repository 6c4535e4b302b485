"""Counts that the host knows although they are arrays on a device.

Without a mask and without ranks the count of a group follows from x's shape. To read it back from the device would make
the host wait in every training step, and a step that waits cannot be captured in a graph.
"""

import weakref
from collections.abc import Sequence

from bnspec._arrays import library
from bnspec._modes import transformation, values
from bnspec._types import Array

__all__ = ["counts_of", "remember", "remembered"]

#: The arrays that were made from shapes, by identity, as long as they live. Whoever writes to such an array deceives
#: the check of BN-RUN-4, and nothing else: no computation reads this.
_known: dict[int, tuple["weakref.ref[Array]", tuple[int, ...]]] = {}


def remember(count: Array, numbers: Sequence[int]) -> Array:
    """Note what a count on a device is, and return it."""
    if transformation(count) is None and _is_on_device(count):
        key = id(count)
        _known[key] = (weakref.ref(count, lambda _: _known.pop(key, None)), tuple(numbers))
    return count


def remembered(count: Array) -> list[int] | None:
    """Return what was noted of a count on a device; None where nothing was. Waits for nothing."""
    found = _known.get(id(count))
    return list(found[1]) if found is not None and found[0]() is count else None


def counts_of(count: Array) -> list[int] | None:
    """The elements of a count; None while a library traces. Waits for a device only where shapes did not tell."""
    found = remembered(count)
    return values(count) if found is None else found


def _is_on_device(count: Array) -> bool:
    name = library(count)
    return name == "cupy" or (name == "torch" and count.device.type not in ("cpu", "meta"))
