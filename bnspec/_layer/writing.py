"""Writing values into arrays that somebody else holds too, such as an optimizer that holds a layer's parameters."""

import os
import threading
from typing import Any

from bnspec._arrays import array_namespace, library, on_device_of, stop_gradient
from bnspec._types import Array

__all__ = ["written"]

#: Held at a fork, so that no child finds one array written and the next not. Only short copies are made inside.
_writing = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release)


def written(old: tuple[Array | None, ...], new: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
    """Write arrays into others of their shape and dtype, and return those that hold the values then.

    An array that cannot be written is not, and the new one is returned in its place. If one fails, those before it
    are written back.

    Examples
    --------
    >>> import numpy as np
    >>> gamma = np.ones(2)
    >>> written((gamma, None), (np.zeros(2), None))[0] is gamma, gamma.tolist()
    (True, [0.0, 0.0])
    """
    there = [a is not None and b is not None and _writable(a) for a, b in zip(old, new, strict=True)]
    before = [_copied(a) if fits else None for a, fits in zip(old, there, strict=True)]
    with _writing:
        try:
            for a, b, fits in zip(old, new, there, strict=True):
                if fits:
                    _write(a, b)
        except BaseException:
            for a, b, fits in zip(old, before, there, strict=True):
                if fits:
                    _write(a, b)
            raise
    return tuple(a if fits else b for a, b, fits in zip(old, new, there, strict=True))


def _writable(v: Any) -> bool:
    """Return whether values can be put into an array, each into a place of its own."""
    kind = library(v)
    if kind == "jax":
        return False
    if kind == "torch":  # neither what inference mode made, nor a result that its graph would make anew
        return not (v.is_inference() or v.grad_fn is not None or (0 in v.stride() and v.numel() > 1))
    flags: Any = getattr(v, "flags", None)
    return bool(getattr(flags, "writeable", True))


@on_device_of("v")
def _copied(v: Array) -> Array:
    return array_namespace(v).asarray(stop_gradient(v), copy=True)


@on_device_of("a")
def _write(a: Array, b: Array) -> None:
    if library(a) == "torch":
        a.detach().copy_(b)  # past the graph, and still counted as a change by torch
    else:
        a[...] = b
