"""Launching: the one place that knows how a call is packed for the kernels, and that starts them.

`FIELDS` says what the struct ``Call`` of batch_norm.cu holds, in its order. Each member is 8 bytes wide, so a packed
call has no gaps, and no argument can have a wrong width.
"""

import ctypes
import operator
import struct
import threading
from typing import Any

from cupy.cuda import Device, driver

__all__ = ["FIELDS", "NAMES", "Launcher", "make_current", "pack"]

_ARRAYS_OF_X = ("x", "dy", "out", "mask")
_NUMBERS = ("groups", "rows", "channels", "run", "x_row", "x_channel", "dy_row", "dy_channel", "out_row", "out_channel",
            "mask_row", "mask_channel", "lanes", "width", "team")  # fmt: skip
_ARRAYS_OF_STATISTICS = ("partial", "counters", "count", "divisor", "mean", "low", "m2", "inverse", "centre", "scale",
                         "shift", "slope", "s1", "s2")  # fmt: skip

#: Name and kind of each member: "P" is a pointer, "q" a whole number, "d" a float64.
FIELDS: tuple[tuple[str, str], ...] = (
    *((name, "P") for name in _ARRAYS_OF_X),
    *((name, "q") for name in _NUMBERS),
    *((name, "P") for name in _ARRAYS_OF_STATISTICS),
    ("epsilon", "d"),
    ("gamma", "P"), ("gamma_stride", "q"), ("gamma_dtype", "q"),
    ("beta", "P"), ("beta_stride", "q"), ("beta_dtype", "q"),
    ("dgamma", "P"), ("dbeta", "P"),
    ("running_mean", "P"), ("running_mean_stride", "q"), ("running_mean_dtype", "q"),
    ("running_var", "P"), ("running_var_stride", "q"), ("running_var_dtype", "q"),
)  # fmt: skip

_PACKER = struct.Struct("<" + "".join({"P": "Q"}.get(kind, kind) for _, kind in FIELDS))

#: Names of the members.
NAMES = tuple(name for name, _ in FIELDS)

_in_order = operator.itemgetter(*NAMES)


def pack(values: dict[str, Any]) -> bytes:
    """Return a call, all of whose members are named, as the kernels read it."""
    assert len(values) == len(NAMES), f"no members of a call: {sorted(values.keys() - set(NAMES))}"
    return _PACKER.pack(*_in_order(values))


class _Thread(threading.local):
    """Devices whose context this thread has made current before."""

    def __init__(self) -> None:
        self.devices: set[int] = set()


_thread = _Thread()


def make_current(device: int) -> None:
    """Make the context of the current device current for the driver.

    CuPy's allocator may give a thread memory without a call of CUDA's runtime; the driver, which starts kernels, then
    knows of no context in that thread.
    """
    if device not in _thread.devices:
        Device(device).use()
        _thread.devices.add(device)


class Launcher:
    """Kernels that are queued with the same members of a call.

    Parameters
    ----------
    members : dict
        By the names in `FIELDS`.
    """

    def __init__(self, members: dict[str, Any]) -> None:
        self._call = ctypes.create_string_buffer(pack(members), _PACKER.size)
        self._arguments = (ctypes.c_void_p * 1)(ctypes.addressof(self._call))
        self._address = ctypes.addressof(self._arguments)

    def launch(self, function: int, grid: tuple[int, int], threads: int, shared: int, stream: int) -> None:
        """Queue a kernel on a stream; the driver copies the members.

        Parameters
        ----------
        function : int
            Handle of the kernel, as `compiling.kernel` returns it.
        grid : tuple of int
            Blocks in x and y.
        threads : int
            Threads of a block.
        shared : int
            Bytes of shared memory of a block.
        stream : int
            Handle of a stream of the current device.
        """
        driver.launchKernel(function, *grid, 1, threads, 1, 1, shared, stream, self._address, 0)
