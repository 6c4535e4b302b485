"""Event queries beside a stream that is being captured.

While any thread captures a stream in CUDA's mode "global", which is torch's default, an event query of any thread is an
error, and it spoils the capture too. So a thread that queries changes its own capture mode to "relaxed" for the time of
the query, which affects no other thread. CuPy has no function for that, so the driver's is called.

References
----------
CUDA Driver API, cuThreadExchangeStreamCaptureMode. torch does the same around the queries of its NCCL watchdog.
"""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["beside_captures"]

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


@contextlib.contextmanager
def beside_captures() -> Iterator[None]:
    """Let the calling thread query events while it or another thread captures.

    Raises
    ------
    RuntimeError
        The driver refuses.
    """
    mode = ctypes.c_int(_RELAXED)
    _exchange(mode)  # now the thread's own mode is in it
    try:
        yield
    finally:
        _exchange(mode)


def _exchange(mode: ctypes.c_int) -> None:
    status = _driver().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    if status != 0:
        raise RuntimeError(f"cuThreadExchangeStreamCaptureMode: CUDA error {status}")


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
