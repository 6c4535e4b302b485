"""Cache of input checks.

A check reads only types, shapes, dtypes and devices, so arrays that share them are checked once.

To look at every array takes longer than to normalize a few thousand numbers.
"""

import functools
from collections.abc import Callable
from typing import Any

from bnspec._types import Array

__all__ = ["look_of", "once"]


def once(what: object, look: tuple[Any, ...] | None, check: Callable[..., Any], *given: Any) -> Any:
    """Do a check and return what it returns; arrays that look as some that passed before need no second one."""
    if look is None:
        return check(*given)
    passed = _passed(what, look)
    if not passed:
        passed.append(check(*given))
    return passed[0]


@functools.lru_cache(maxsize=4096)
def _passed(what: object, look: tuple[Any, ...]) -> list[Any]:
    """Return the list that holds the result of a check for arrays of this look; an empty one before the first check."""
    return []


def look_of(*arrays: Array | None) -> tuple[Any, ...] | None:
    """All of some arrays that a check sees: their types, shapes, dtypes and devices; None if there may be more."""
    look: list[Any] = []
    for v in arrays:
        if v is None:
            look.append(None)
            continue
        kind: Any = type(v)
        own = _look_for(kind)
        if own is None:
            return None
        look += (kind, own(v))
    return tuple(look)


def _look_of_tensor(v: Any) -> Any:
    if v.is_nested:  # it has no shape
        return object()
    return v.shape, v.dtype, v.device, v.layout


#: Arrays of these very types show all they are, and have values when they are checked. CuPy's devices cannot be
#: hashed, their numbers can.
_PLAIN: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("numpy", "ndarray"): lambda v: (v.shape, v.dtype),
    ("torch", "Tensor"): _look_of_tensor,
    ("torch.nn.parameter", "Parameter"): _look_of_tensor,
    ("cupy", "ndarray"): lambda v: (v.shape, v.dtype, v.device.id),
}


@functools.lru_cache(maxsize=64)
def _look_for(kind: Any) -> Callable[[Any], Any] | None:
    return _PLAIN.get((kind.__module__, kind.__name__))
