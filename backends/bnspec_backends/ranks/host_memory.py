"""Copies of payloads to host memory and back, for communicators whose messages start there."""

from typing import Any

import numpy as np

import bnspec
from bnspec._creation import beside
from bnspec._namespace import array_namespace
from bnspec._precision import library
from bnspec._types import Array

__all__ = ["from_host", "to_host"]


def to_host(payload: Array) -> Any:
    """Return the payload as a C-contiguous NumPy array, without a copy if it is one."""
    name = library(payload)
    if name == "numpy":
        return np.ascontiguousarray(payload)
    if name == "cupy":
        return _staged(payload)
    backend = bnspec.get_backend("strict" if name == "array_api_strict" else name)
    return np.ascontiguousarray(backend.to_numpy(payload))


def from_host(values: Any, like: Array) -> Array:
    """Return values as an array of another array's library, on its device."""
    if library(like) == "numpy":
        return values
    xp = array_namespace(like)
    return xp.asarray(values, **beside(like))


def _staged(payload: Array) -> Any:
    """Copy through page-locked memory on the current stream: no pageable buffer is waited for."""
    import cupy
    import cupyx

    pinned = cupyx.empty_pinned(payload.shape, payload.dtype)
    stream = cupy.cuda.get_current_stream()
    payload.get(stream=stream, out=pinned)
    stream.synchronize()
    return pinned
