"""Devices, streams and events, as `cupy.cuda` has them."""

from cupy._stream import Event, Stream, get_current_stream
from cupy.cuda import driver, nvrtc, runtime
from cupy.cuda.device import Device

__all__ = ["Device", "Event", "Stream", "driver", "get_current_stream", "is_available", "nvrtc", "runtime"]


def is_available() -> bool:
    return bool(runtime.getDeviceCount() > 0)
