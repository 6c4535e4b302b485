"""An NCCL communicator, and the thread that looks after it and ends it.

Both ways to end it may take long, or for ever: `destroy` waits for the other ranks of the machine, and `abort` for what
the user has queued. So only this thread ends it, and nobody waits for that longer than he likes.
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

__all__ = ["Keeper"]

#: Seconds between two looks; and how long an abort waits for a call of NCCL's that another thread is in, before it is
#: taken for stuck: the abort is then what frees it.
_EVERY, _PATIENCE = 0.05, 3.0


class Keeper:
    """What ends an NCCL communicator.

    Parameters
    ----------
    comm : cupy.cuda.nccl.NcclCommunicator
    calling : threading.Lock
        Held around calls of NCCL's.
    device : int
        The communicator's.
    """

    def __init__(self, comm: Any, calling: threading.Lock, device: int) -> None:
        self.comm, self.calling = comm, calling
        self._device = device
        self._alive = cupyx.empty_pinned(1, np.uint64)
        self._alive[0] = 1
        self._ending: Callable[[], None] | None = None
        self._wake, self._ended = threading.Event(), threading.Event()

    def start(self, look: Callable[[], None]) -> None:
        """Begin to call `look` now and then; the thread keeps what it belongs to alive until `end`."""
        threading.Thread(target=self._run, args=(look,), name="bnspec NCCL", daemon=True).start()

    def alive(self, stream: Any) -> Array:
        """A device array that is 1 where the stream comes to it before the communicator is aborted, else 0."""
        flag = cupy.empty(1, cupy.uint64)
        flag.set(self._alive, stream=stream)
        return flag

    def end(self, *, abort: bool) -> None:
        """Have the communicator ended; the first word counts, but that an abort overrules a destruction."""
        if abort:
            self._alive[0] = 0  # seen by the device after the collective that the abort breaks off
        if self._ending is None or abort:
            self._ending = self.comm.abort if abort else self.comm.destroy
        self._wake.set()

    def ended(self, seconds: float) -> bool:
        """Wait until it is ended, for so long."""
        return self._ended.wait(seconds)

    def _run(self, look: Callable[[], None]) -> None:
        with contextlib.suppress(Exception):  # a device that does not answer is noticed by `look`
            # A thread's device is the first one at first, where each rank's would then take memory.
            cupy.cuda.Device(self._device).use()
        while not self._wake.wait(_EVERY):
            look()
        free = self.calling.acquire(timeout=_PATIENCE)
        try:
            assert self._ending is not None
            with contextlib.suppress(NCCLFault), calling_nccl():
                self._ending()
        finally:
            if free:
                self.calling.release()
        self._ended.set()
