"""Workspace: the counters by which blocks know that they come last, for each device and stream.

They are 0 between calls: the block that comes last sets its counter back. So they are cleared once, and a graph that
was captured can be replayed. Streams have counters of their own, since their kernels may run at the same time.
"""

import threading
from typing import Any

import cupy
import numpy

__all__ = ["counters_for"]

_lock = threading.Lock()
#: All that were ever handed out: a captured graph may hold their addresses for as long as the process lives.
_all: list[Any] = []
_current: dict[tuple[int, int], Any] = {}


def counters_for(blocks: int, device: int, stream: int) -> int:
    """Return the address of as many counters as there are blocks, all 0."""
    found = _current.get((device, stream))
    if found is None or found.size < blocks:
        with _lock:
            found = cupy.zeros(max(4096, 2 * blocks), numpy.uint32)
            _all.append(found)
            _current[device, stream] = found
    return int(found.data.ptr)
