"""What CUDA and NCCL say when they do not work any more, as errors that say so."""

import contextlib
from collections.abc import Iterator
from typing import Any

import cupy
from cupy.cuda import nccl

from bnspec_backends.ranks.nccl.capture import beside_captures

__all__ = ["DeviceFault", "Fault", "NCCLFault", "calling_nccl", "passed"]

#: What CUDA says of an event that the device has not come to; everything else but 0 is a fault of the device.
_NOT_READY = 600


class Fault(RuntimeError):
    """Something below the communicator failed; nothing that is queued will be done."""


class DeviceFault(Fault):
    """The device does not work any more."""


class NCCLFault(Fault):
    """NCCL refused a call, or reports that its network or another rank failed."""


def passed(event: Any) -> bool:
    """Whether the device has come past an event.

    Raises
    ------
    DeviceFault
        Where `Event.done` would say not yet, for ever.
    """
    with beside_captures():
        status = cupy.cuda.runtime.eventQuery(event.ptr)
    if status not in (0, _NOT_READY):
        raise DeviceFault(f"CUDA error {status}")
    return bool(status == 0)


@contextlib.contextmanager
def calling_nccl() -> Iterator[None]:
    """Around calls of NCCL's.

    Raises
    ------
    NCCLFault
        In place of what CuPy raises: its own error, or a KeyError where it has no name for the status.
    """
    try:
        yield
    except (nccl.NcclError, KeyError) as error:
        raise NCCLFault(f"status {error}" if isinstance(error, KeyError) else str(error)) from error
