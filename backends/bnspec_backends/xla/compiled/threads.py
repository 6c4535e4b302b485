"""Threads of functions that XLA calls: the team that shares the blocks of every other call.

Compiled code is kept on disk, so that no address of this process may stand in it. A function of a known name,
made anew in each process, tells it where the team's control block is written down.
"""

from typing import Any

import numpy
from llvmlite import binding
from numba import cfunc, types
from numba.np.numpy_support import carray

from bnspec_backends.cpu.compiled.dtypes import internal
from bnspec_backends.cpu.compiled.thread_team import team
from bnspec_backends.cpu.operations import SERIAL
from bnspec_backends.cpu.resources import resources
from bnspec_backends.xla.compiled.call_frame import pointer

__all__ = ["control_for", "tell_threads"]

#: Address and length of the control block for large calls, then of that for small ones.
_PLACE = numpy.zeros(4, numpy.int64)
_NAME = "bnspec_control_blocks"
_place = types.ExternalFunction(_NAME, types.int64())

_kept: list[Any] = []  # the function, and the control blocks that a program may still use


def tell_threads() -> None:
    """Write down the control block of as many threads as calls may use now."""
    if not _kept:
        address = int(_PLACE.ctypes.data)
        found = cfunc(types.int64())(lambda: address)
        binding.add_symbol(_NAME, found.address)
        _kept.append(found)
    blocks = [team.control_block(resources.threads), team.alone]
    _kept.append(blocks)
    _PLACE[:] = [n for block in blocks for n in (block.ctypes.data, block.size)]


@internal
def control_for(size: int) -> Any:
    """Return the control block of the threads for an array of so many elements."""
    place = carray(pointer(_place()), (4,), numpy.int64)
    i = 2 if size < SERIAL else 0
    return carray(pointer(place[i]), (place[i + 1],), numpy.int64)
