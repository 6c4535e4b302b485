"""Cache of input checks.

A check reads only types, shapes, dtypes and devices, so arrays that share them are checked once. To check every array
of every call takes longer than to normalize a few thousand numbers.
"""

import functools
from collections.abc import Callable
from typing import Any

from bnspec._types import Array

__all__ = ["cached", "key_of"]


def cached(what: object, key: tuple[Any, ...] | None, check: Callable[..., Any], *given: Any) -> Any:
    """Return the result of a check, which is not repeated for arrays with the key of others that passed it."""
    if key is None:
        return check(*given)
    passed = _passed(what, key)
    if not passed:
        passed.append(check(*given))
    return passed[0]


@functools.lru_cache(maxsize=4096)
def _passed(what: object, key: tuple[Any, ...]) -> list[Any]:
    """Return the list that holds the result of a check; an empty one before the first check."""
    return []


def key_of(*arrays: Array | None) -> tuple[Any, ...] | None:
    """Return all that a check sees of some arrays: types, shapes, dtypes and devices; None if it may see more."""
    key: list[Any] = []
    for v in arrays:
        if v is None:
            key.append(None)
            continue
        kind: Any = type(v)
        own = _key_for(kind)
        if own is None:
            return None
        key += (kind, own(v))
    return tuple(key)


def _key_of_tensor(v: Any) -> Any:
    if v.is_nested:  # it has no shape
        return object()
    return v.shape, v.dtype, v.device, v.layout


#: Arrays of these very types show all they are, and have values when they are checked. CuPy's devices cannot be
#: hashed, their numbers can.
_PLAIN: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("numpy", "ndarray"): lambda v: (v.shape, v.dtype),
    ("torch", "Tensor"): _key_of_tensor,
    ("torch.nn.parameter", "Parameter"): _key_of_tensor,
    ("cupy", "ndarray"): lambda v: (v.shape, v.dtype, v.device.id),
}


@functools.lru_cache(maxsize=64)
def _key_for(kind: Any) -> Callable[[Any], Any] | None:
    return _PLAIN.get((kind.__module__, kind.__name__))
