"""Devices, streams and events, as `cupy.cuda` has them."""

from cupy._stream import Event, Stream, get_current_stream
from cupy.cuda import runtime
from cupy.cuda.device import Device

__all__ = ["Device", "Event", "Stream", "get_current_stream", "is_available", "runtime"]


def is_available() -> bool:
    return bool(runtime.getDeviceCount() > 0)
