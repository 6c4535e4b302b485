"""Devices, as `cupy.cuda.device` has them."""

import threading
from typing import Any

from cupy import _stream

#: Every thread has a current device of its own, which is 0 at first.
_local = threading.local()


class Device:
    """As `cupy.cuda.Device`, which can be compared but not hashed."""

    __slots__ = ("id",)
    __hash__ = None

    def __init__(self, device: Any = None) -> None:
        self.id = getattr(_local, "current", 0) if device is None else getattr(device, "id", device)

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"

    @property
    def compute_capability(self) -> str:
        return "90"

    def use(self) -> Any:
        _local.current = self.id
        _stream.use_runtime()
        return self

    def synchronize(self) -> None:
        _stream.get_current_stream().synchronize()

    def __enter__(self) -> Any:
        """As CuPy's, which asks nothing of the runtime where the device is current already."""
        _local.before = [*getattr(_local, "before", []), Device().id]
        return self if Device().id == self.id else self.use()

    def __exit__(self, *_: Any) -> None:
        before = _local.before.pop()
        if before != Device().id:
            Device(before).use()

    def __int__(self) -> Any:
        return self.id

    def __eq__(self, other: Any) -> Any:
        return isinstance(other, Device) and self.id == other.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"
