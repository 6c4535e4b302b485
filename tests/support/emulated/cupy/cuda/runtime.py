"""As much of `cupy.cuda.runtime` as is asked for."""

import os

from cupy import _stream


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.api.runtime"


def getDeviceCount():  # noqa: N802
    return int(os.environ.get("EMULATED_DEVICES", "1"))


def getDeviceProperties(device):  # noqa: N802
    return {"name": b"none: emulated by NumPy and threads"}


def eventQuery(event):  # noqa: N802
    return _stream._events[event]._query()
