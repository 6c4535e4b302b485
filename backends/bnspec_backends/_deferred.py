"""A lock that finalizers may come to: they leave their work to whoever holds it, and never wait.

Python collects garbage in the middle of whatever a thread is doing. A finalizer that waited for a lock could wait for
its own thread, or for one that waits for what this thread holds; one that did not take it would change what the
interrupted code is reading.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["Deferred"]

T = TypeVar("T")


class Deferred(Generic[T]):
    """A context manager that holds the lock, which its thread may enter again.

    Parameters
    ----------
    work : callable
        Function that is called, with the lock held, with each thing that was left.

    Examples
    --------
    >>> done = []
    >>> deferred = Deferred(done.append)
    >>> with deferred:
    ...     deferred.leave("a")
    ...     done
    []
    >>> done
    ['a']
    """

    def __init__(self, work: Callable[[T], Any]) -> None:
        self._work = work
        self._left: deque[T] = deque()
        self.start_afresh()

    def start_afresh(self) -> None:
        """Renew the lock in a forked child: a thread that does not exist there may have held it."""
        self._lock = threading.RLock()
        self._depth = 0

    def leave(self, thing: T) -> None:
        """Have something done about a thing: at once if the lock is free, else by whoever holds it. Never waits."""
        self._left.append(thing)
        self._serve()

    def _serve(self) -> None:
        while self._left and self._lock.acquire(blocking=False):
            try:
                if self._depth:  # this thread was interrupted while it held the lock; it comes here when it lets go
                    return
                self._depth = 1
                try:
                    while self._left:
                        self._work(self._left.popleft())
                finally:
                    self._depth = 0
            finally:
                self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        self._lock.release()
        if self._left:
            self._serve()
