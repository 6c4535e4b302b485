"""Threads that share the blocks of one call.

The kernels run without the interpreter lock, so Python's own threads serve: unlike the threading layers of
compilers they may be entered from any number of threads at once, and a forked child simply starts its own.
Which thread computes a block changes no result, since blocks are cut by shape alone.
"""

import itertools
import queue
import threading
from collections.abc import Callable

__all__ = ["Workers"]


class _Job:
    """Blocks 0 .. number - 1 of one call, taken by whoever is free."""

    def __init__(self, task: Callable[[int], None], number: int) -> None:
        self._task, self._number = task, number
        self._next = itertools.count()  # its next() is atomic
        self._lock = threading.Lock()
        self._missing = number
        self._finished = threading.Event()
        self._error: BaseException | None = None

    def work(self) -> None:
        """Take blocks until none is left."""
        done = 0
        try:
            while self._error is None and (i := next(self._next)) < self._number:
                self._task(i)
                done += 1
        except BaseException as error:
            self._error = error
            self._finished.set()
        with self._lock:
            self._missing -= done
            if not self._missing:
                self._finished.set()

    def result(self) -> None:
        """Wait for the blocks that others took; threads that came too late for one are not waited for."""
        self._finished.wait()
        if self._error is not None:
            raise self._error


class Workers:
    """A fixed number of threads, started at the first call that needs them.

    Parameters
    ----------
    threads : int
        How many compute, the caller included.

    Examples
    --------
    >>> squares = [0] * 5
    >>> Workers(2).run(lambda i: squares.__setitem__(i, i * i), 5)
    >>> squares
    [0, 1, 4, 9, 16]
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget the threads: a forked child has none."""
        self._queue: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._started = 0
        self._lock = threading.RLock()  # a signal's handler may call, too

    def run(self, task: Callable[[int], None], number: int) -> None:
        """Call ``task(i)`` for each i below a number, and return when all are done; raise what one raised."""
        helpers = min(self.threads, number) - 1
        if helpers <= 0:
            for i in range(number):
                task(i)
            return
        if self._started < helpers:
            self._start(helpers)
        job = _Job(task, number)
        for _ in range(helpers):
            self._queue.put(job)
        job.work()
        job.result()

    def _start(self, number: int) -> None:
        with self._lock:
            while self._started < number:
                threading.Thread(target=_serve, args=(self._queue,), name="bnspec-cpu", daemon=True).start()
                self._started += 1


def _serve(jobs: "queue.SimpleQueue[_Job]") -> None:
    while True:
        jobs.get().work()
