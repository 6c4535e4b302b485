"""As much of `cupy.cuda.runtime` as is asked for."""

import os
from typing import Any

from cupy import _stream


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.api.runtime"


def getDeviceCount() -> int:  # noqa: N802
    return int(os.environ.get("EMULATED_DEVICES", "1"))


cudaDevAttrSingleToDoublePrecisionPerfRatio = 87  # noqa: N816


def deviceGetAttribute(attrib: int, device: int) -> int:  # noqa: N802
    """How many times the float64 rate the float32 rate is, of which nothing else is asked."""
    assert attrib == cudaDevAttrSingleToDoublePrecisionPerfRatio
    return int(os.environ.get("EMULATED_PRECISION_RATIO", "2"))


def getDeviceProperties(device: Any) -> dict[str, Any]:  # noqa: N802
    return {"name": b"none: emulated by NumPy and threads"}


def eventQuery(event: Any) -> Any:  # noqa: N802
    return _stream._events[event]._query()
