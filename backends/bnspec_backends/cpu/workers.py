"""Threads that share the blocks of one call of kernels written in NumPy, which run without the interpreter lock.

The block that a thread computes changes no result, since blocks are cut by shape alone.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Workers"]


class Workers:
    """Fixed number of threads, started at the first call that needs them.

    Parameters
    ----------
    threads : int
        Threads that compute, the caller included.

    Examples
    --------
    >>> squares = [0] * 5
    >>> Workers(2).run(lambda i: squares.__setitem__(i, i * i), 5)
    >>> squares
    [0, 1, 4, 9, 16]
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @property
    def threads(self) -> int:
        """Threads that compute, the caller included."""
        return self._threads

    @threads.setter
    def threads(self, number: int) -> None:
        self._threads = number
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget the threads: a forked child has none."""
        self._helpers = ThreadPoolExecutor(max(1, self._threads - 1), "bnspec-cpu")
        self._submitting = threading.Lock()

    def run(self, task: Callable[[int], None], number: int) -> None:
        """Call ``task(i)`` for each i below a number; return when all are done; raise an error of a task."""
        numbers = itertools.count()  # its next() is atomic

        def work() -> None:
            while (i := next(numbers)) < number:
                task(i)

        helpers = self._submit(work, min(self._threads, number) - 1)
        begun: list[Future[None]] = []
        try:
            work()
        finally:  # a helper that has not begun is not waited for
            begun = [helper for helper in helpers if not helper.cancel()]
        for helper in begun:
            helper.result()

    def _submit(self, work: Callable[[], None], number: int) -> list[Future[None]]:
        """Ask so many helpers; fewer if Python ends, or if the system gives no further thread."""
        helpers: list[Future[None]] = []
        lock = self._submitting
        if number > 0 and lock.acquire(blocking=False):  # taken where a signal's handler computes in the middle of this
            try:
                with contextlib.suppress(RuntimeError):
                    helpers.extend(self._helpers.submit(work) for _ in range(number))
            finally:
                lock.release()
        return helpers
