"""A lock that a forked child finds free.

A child of `os.fork` has one thread, the one that forked. A lock that another thread of the parent held would never be
let go in the child, so every lock of the core is one of these. The guarded value changes in one step, by one
assignment, so that a child finds the old or the new of it whenever the fork came.
"""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LAYERS", "Lock"]


class Lock:
    """A lock that its thread may take again, and that is new in every forked child.

    Examples
    --------
    >>> lock = Lock()
    >>> with lock.held(), lock.held():
    ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all.add(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside a ``with`` block, and let go of that lock which was taken, also after a fork inside."""
        with self._lock:
            yield


_all: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _renew() -> None:
    for lock in list(_all):
        lock._lock = threading.RLock()


#: Guards reading what a layer keeps, changing it and writing it back; one for all, so that a layer can be copied.
LAYERS = Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
