"""CUDA's driver library as `ctypes` would load it: the one function that bnspec calls there."""

import ctypes
from typing import Any

from cupy import _stream

_CDLL = ctypes.CDLL


class _Driver:
    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:  # noqa: N802
        """As the driver's: exchange the mode behind a pointer; 0 is success."""
        pointed = mode._obj
        pointed.value = _stream.exchange_capture_mode(pointed.value)
        return 0


class CDLL(_CDLL):
    """`ctypes.CDLL`, which finds the driver."""

    def __new__(cls, name: str, *_args: Any, **_kwargs: Any) -> Any:
        return _Driver() if name == "libcuda.so.1" else super().__new__(cls)


ctypes.CDLL = CDLL
