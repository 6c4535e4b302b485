"""Asking for events beside a stream that is being captured.

While any thread captures a stream in CUDA's mode "global", which is torch's default, an event query of another thread is
an error, and it spoils the capture too. A thread that queries declares once that it does not mind: its own capture mode
becomes "relaxed", which concerns no other thread. CuPy has no function for it, so the driver's is called.

References
----------
CUDA Driver API, cuThreadExchangeStreamCaptureMode. torch does the same around the queries of its NCCL watchdog.
"""

import ctypes
import sys

__all__ = ["allow_queries_beside_captures"]

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


def allow_queries_beside_captures() -> None:
    """Let the calling thread query events while other threads capture; for a thread that captures nothing itself.

    Raises
    ------
    RuntimeError
        If the driver refuses.
    """
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    mode = ctypes.c_int(_RELAXED)
    status = driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    if status != 0:
        raise RuntimeError(f"cuThreadExchangeStreamCaptureMode: CUDA error {status}")
