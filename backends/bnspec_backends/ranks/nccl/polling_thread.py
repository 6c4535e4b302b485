"""Thread that polls an NCCL communicator, and ends it.

Both ways to end a communicator may take long, or for ever: `destroy` waits for the other ranks of the machine, and
`abort` for the user's queued work. So only this thread ends it, and a caller waits for that as long as it likes.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import cupy
import cupyx
import numpy as np

from bnspec._types import Array
from bnspec_backends.ranks.nccl.faults import NCCLFault, calling_nccl

__all__ = ["PollingThread"]

#: Seconds between two polls; and seconds that an abort waits for a call of NCCL in another thread. After that the call
#: is taken for stuck, and the abort is what frees it.
_EVERY, _PATIENCE = 0.05, 3.0


class PollingThread:
    """Thread that polls an NCCL communicator and ends it.

    Parameters
    ----------
    comm : cupy.cuda.nccl.NcclCommunicator
        The communicator to poll.
    device : int
        The communicator's device.

    Attributes
    ----------
    calling : threading.Lock
        Held around calls of NCCL.
    """

    def __init__(self, comm: Any, device: int) -> None:
        self.comm, self.calling = comm, threading.Lock()
        self._device = device
        self._alive = cupyx.empty_pinned(1, np.uint64)
        self._alive[0] = 1
        self._ending: Callable[[], None] | None = None
        self._wake, self._ended = threading.Event(), threading.Event()

    def start(self, poll: Callable[[], None]) -> None:
        """Begin to call `poll` now and then; the thread keeps the owner of `poll` alive until `end`."""
        threading.Thread(target=self._run, args=(poll,), name="bnspec NCCL", daemon=True).start()

    def alive(self, stream: Any) -> Array:
        """Return a device array that is 1 if the stream comes to it before the communicator is aborted, else 0."""
        flag = cupy.empty(1, cupy.uint64)
        flag.set(self._alive, stream=stream)
        return flag

    def end(self, *, abort: bool) -> None:
        """Ask the thread to end the communicator. The first request wins, except that abort replaces destroy."""
        if abort:
            self._alive[0] = 0  # seen by the device after the collective that the abort breaks off
        if self._ending is None or abort:
            self._ending = self.comm.abort if abort else self.comm.destroy
        self._wake.set()

    def ended(self, seconds: float) -> bool:
        """Wait so long until the communicator is ended; return whether it is."""
        return self._ended.wait(seconds)

    def _run(self, poll: Callable[[], None]) -> None:
        with contextlib.suppress(Exception):  # `poll` notices a device that does not answer
            # A new thread's device is device 0, on which each rank would then take memory.
            cupy.cuda.Device(self._device).use()
        while not self._wake.wait(_EVERY):
            poll()
        free = self.calling.acquire(timeout=_PATIENCE)
        try:
            assert self._ending is not None
            with contextlib.suppress(NCCLFault), calling_nccl():
                self._ending()
        finally:
            if free:
                self.calling.release()
        self._ended.set()
