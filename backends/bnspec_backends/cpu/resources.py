"""Resources that all calls share: threads, memory for results, and counters."""

import os
from typing import Any

from bnspec._errors import refusal
from bnspec_backends._environment import whole_number
from bnspec_backends.cpu.buffer_pool import MOST_BYTES, Pool
from bnspec_backends.cpu.workers import Workers

__all__ = ["Counters", "Resources", "resources"]

#: Calls of NumPy kernels with fewer elements run in the calling thread: waking another thread, and handing the
#: interpreter lock over, takes as long as the call.
SERIAL = 1 << 19

#: Most threads that may be asked for: more than any machine has cores for are a mistake.
MOST_THREADS = 4096


class Counters:
    """Counts of what the kernels did."""

    def __init__(self) -> None:
        #: Arrays that were copied because no kernel reads them in place.
        self.copies = 0


class Resources:
    """Threads, memory and counters that the kernels share."""

    def __init__(self, threads: int, pool_bytes: int) -> None:
        self.pool = Pool(pool_bytes)
        self.counters = Counters()
        self._workers = Workers(threads)

    @property
    def threads(self) -> int:
        """Threads that compute a large call, the caller included; no result depends on their number."""
        return self._workers.threads

    @threads.setter
    def threads(self, number: int) -> None:
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST_THREADS:
            raise refusal(
                ValueError,
                "BN-ERR-1",
                got=f"threads is {number!r}",
                expected=f"a whole number from 1 to {MOST_THREADS}",
                do="1 computes in the calling thread alone.",
            )
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
    asked = whole_number("BNSPEC_NUM_THREADS", 1, MOST_THREADS, "BN-ERR-1")
    if asked is not None:
        return asked
    shared = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # not ours to correct; may be a list
    if shared.isascii() and shared.isdigit() and len(shared) < 5 and 1 <= int(shared) <= MOST_THREADS:
        return int(shared)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_pool() -> int:
    asked = whole_number("BNSPEC_POOL_BYTES", 0, MOST_BYTES, "BN-ERR-1")
    return 1 << 30 if asked is None else asked


#: The resources of every call.
resources = Resources(_default_threads(), _default_pool())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=resources.start_afresh)
