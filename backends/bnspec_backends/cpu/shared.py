"""What all calls share: threads, memory for results, and counters."""

import os
from typing import Any

from bnspec_backends.cpu.pool import Pool
from bnspec_backends.cpu.workers import Workers

__all__ = ["Counters", "Resources", "resources"]

#: Calls with fewer elements run in the calling thread: to wake another, and to hand the interpreter lock over,
#: takes as long as they do.
SERIAL = 1 << 19


class Counters:
    """What the kernels did, for those who wonder."""

    def __init__(self) -> None:
        #: Arrays that had to be copied because no kernel reads them in place.
        self.copies = 0


class Resources:
    """What the kernels share."""

    def __init__(self, threads: int, pool_bytes: int) -> None:
        self.pool = Pool(pool_bytes)
        self.counters = Counters()
        self._workers = Workers(threads)

    @property
    def threads(self) -> int:
        """How many threads compute a large call, the caller included; no result depends on it."""
        return self._workers.threads

    @threads.setter
    def threads(self, number: int) -> None:
        self._workers.threads = number

    def run(self, task: Any, number: int, size: int) -> None:
        """Call ``task(i)`` for each i below a number, in this thread alone where the call has few elements."""
        if number == 1 or size < SERIAL or self._workers.threads == 1:
            for i in range(number):
                task(i)
        else:
            self._workers.run(task, number)

    def start_afresh(self) -> None:
        """Make a forked child independent of its parent's threads."""
        self.pool.start_afresh()
        self._workers.start_afresh()


def _default_threads() -> int:
    asked = os.environ.get("BNSPEC_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: The ones every call uses.
resources = Resources(_default_threads(), int(os.environ.get("BNSPEC_POOL_BYTES", 1 << 30)))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=resources.start_afresh)
