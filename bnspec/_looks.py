"""What a check was told once need not be checked again: it sees types, shapes, dtypes and devices, and no values.

To look at every array takes longer than to normalize a few thousand numbers.
"""

import functools
from collections.abc import Callable
from typing import Any

from bnspec._types import Array

__all__ = ["look_of", "once"]

_PLAIN = {("numpy", "ndarray"), ("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("cupy", "ndarray")}


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
    """What a check returned for arrays of this look, or nothing yet."""
    return []


def look_of(*arrays: Array | None) -> tuple[Any, ...] | None:
    """All of some arrays that a check sees: their types, shapes, dtypes and devices; None if there may be more."""
    look: list[Any] = []
    for v in arrays:
        if v is None:
            look.append(None)
            continue
        kind: Any = type(v)
        if not _is_plain(kind):
            return None
        look += (kind, v.shape, v.dtype, _device_of(v))
    return tuple(look)


def _device_of(v: Array) -> Any:
    """A device as something that can be hashed: CuPy's cannot be, its number can."""
    device = getattr(v, "device", None)
    return getattr(device, "id", None) if type(device).__module__.startswith("cupy") else device


@functools.lru_cache(maxsize=64)
def _is_plain(kind: Any) -> bool:
    """Whether arrays of this very type have values when they are checked, and show all they are."""
    return (kind.__module__, kind.__name__) in _PLAIN
