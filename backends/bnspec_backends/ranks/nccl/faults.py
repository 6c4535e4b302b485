"""Failures of CUDA and NCCL, as exceptions."""

import contextlib
from collections.abc import Iterator
from typing import Any

import cupy
from cupy.cuda import nccl

from bnspec_backends.ranks.nccl.capture import beside_captures

__all__ = ["DeviceFault", "Fault", "NCCLFault", "calling_nccl", "passed"]

#: CUDA's status of an event that the device has not come to; every other status but 0 is a fault of the device.
_NOT_READY = 600


class Fault(RuntimeError):
    """Failure below the communicator; queued work will not be done."""


class DeviceFault(Fault):
    """Failure of the device."""


class NCCLFault(Fault):
    """Failure of NCCL: a refused call, or a report that its network or another rank failed."""


def passed(event: Any) -> bool:
    """Return whether the device has come past an event.

    Raises
    ------
    DeviceFault
        The device failed; `Event.done` would return False for ever.
    """
    with beside_captures():
        status = cupy.cuda.runtime.eventQuery(event.ptr)
    if status not in (0, _NOT_READY):
        raise DeviceFault(f"CUDA error {status}")
    return bool(status == 0)


@contextlib.contextmanager
def calling_nccl() -> Iterator[None]:
    """Turn errors of NCCL calls into faults.

    Raises
    ------
    NCCLFault
        CuPy raised its own error, or a KeyError, as it does for a status without a name.
    """
    try:
        yield
    except (nccl.NcclError, KeyError) as error:
        raise NCCLFault(f"status {error}" if isinstance(error, KeyError) else str(error)) from error
