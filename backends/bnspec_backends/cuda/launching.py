"""Launching: the one place that knows how a call is packed for the kernels, and that starts them.

`CALL` and `UPDATE` say what the structs ``Call`` and ``Update`` of batch_norm.cu hold, in their order. Each member is
8 bytes wide, so a packed struct has no gaps, and no argument can have a wrong width.
"""

import ctypes
import operator
import struct
import threading
from typing import Any

from cupy.cuda import Device, driver

__all__ = ["CALL", "UPDATE", "Argument", "Launcher", "make_current"]

_ARRAYS_OF_X = ("x", "dy", "out", "mask")
_NUMBERS = ("groups", "rows", "channels", "run", "x_row", "x_channel", "dy_row", "dy_channel", "out_row", "out_channel",
            "mask_row", "mask_channel", "lanes", "width", "team", "counts")  # fmt: skip
_ARRAYS_OF_STATISTICS = ("partial", "counters", "count", "divisor", "mean", "low", "m2", "inverse", "centre", "scale",
                         "shift", "slope", "s1", "s2")  # fmt: skip


class Argument:
    """Struct that kernels take as their one argument.

    Parameters
    ----------
    *fields : tuple of str and str
        Name and kind of each member: "P" is a pointer, "q" a whole number, "d" a float64.
    """

    def __init__(self, *fields: tuple[str, str]) -> None:
        self.fields = fields
        #: Names of the members.
        self.names = tuple(name for name, _ in fields)
        self._packer = struct.Struct("<" + "".join({"P": "Q"}.get(kind, kind) for _, kind in fields))
        self._in_order = operator.itemgetter(*self.names)

    def pack(self, values: dict[str, Any]) -> bytes:
        """Return the struct, all of whose members are named, as the kernels read it."""
        assert len(values) == len(self.names), f"no members of a call: {sorted(values.keys() - set(self.names))}"
        return self._packer.pack(*self._in_order(values))


def _array_of_channels(name: str) -> tuple[tuple[str, str], ...]:
    """Return the members of an array of shape (C,) whose stride and dtype are told."""
    return (name, "P"), (f"{name}_stride", "q"), (f"{name}_dtype", "q")


#: What kernels that read x take.
CALL = Argument(
    *((name, "P") for name in _ARRAYS_OF_X),
    *((name, "q") for name in _NUMBERS),
    *((name, "P") for name in _ARRAYS_OF_STATISTICS),
    ("epsilon", "d"),
    *_array_of_channels("gamma"), *_array_of_channels("beta"),
    ("dgamma", "P"), ("dbeta", "P"),
    *_array_of_channels("running_mean"), *_array_of_channels("running_var"),
)  # fmt: skip

#: What the kernel of the running state takes.
UPDATE = Argument(
    ("mean", "P"), ("low", "P"), ("m2", "P"), ("channels", "q"),
    ("divisor", "d"), ("weight", "d"), ("cumulative", "q"), ("skip", "q"), ("top", "d"),
    *_array_of_channels("old_mean"), *_array_of_channels("old_var"),
    ("old_count", "P"), ("old_count_stride", "q"), ("count_bytes", "q"),
    ("new_mean", "P"), ("new_var", "P"), ("new_count", "P"),
)  # fmt: skip


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
    """Kernels that are queued with the same argument.

    Parameters
    ----------
    members : dict
        By the names of the argument.
    argument : Argument
        The struct that the kernels take.
    """

    def __init__(self, members: dict[str, Any], argument: Argument = CALL) -> None:
        packed = argument.pack(members)
        self._call = ctypes.create_string_buffer(packed, len(packed))
        self._arguments = (ctypes.c_void_p * 1)(ctypes.addressof(self._call))
        self._address = ctypes.addressof(self._arguments)

    def launch(self, function: int, grid: tuple[int, int], threads: int, shared: int, stream: int) -> None:
        """Queue a kernel on a stream; the driver copies the argument.

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
