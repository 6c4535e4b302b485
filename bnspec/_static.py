"""Static records: values that `jax.jit` is to hash and compare, and never to look into.

JAX has to be told of each class, and to tell it one needs JAX, which nothing here imports. So it is told as soon as it
is there: when a static record is made, and by each operation that is given one.
"""

import sys
from typing import Any, TypeVar

from bnspec._locks import Lock

__all__ = ["static", "tell_jax"]

_T = TypeVar("_T", bound=type)

_classes: list[type] = []
_told: set[type] = set()
_lock = Lock()


def static(cls: _T) -> _T:
    """Make a class of frozen records one whose instances are static to JAX; used as a decorator.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @static
    ... @dataclass(frozen=True)
    ... class Layout:
    ...     axis: int
    >>> Layout(1)
    Layout(axis=1)
    """
    _classes.append(cls)
    return cls


def tell_jax() -> None:
    """Register the static classes with JAX, once for each, if JAX was imported."""
    if len(_told) == len(_classes):
        return
    register: Any = getattr(getattr(sys.modules.get("jax"), "tree_util", None), "register_static", None)
    if register is None:  # not imported, or being imported
        return
    with _lock.held():
        for cls in _classes:
            if cls not in _told:
                register(cls)
                _told.add(cls)
