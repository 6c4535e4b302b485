"""Pool of memory for results: fresh pages cost more than the arithmetic that fills them.

A large result is a view of a buffer. When its last view dies, on any thread, the buffer waits for the next result of
about its size. The pool limits the bytes that wait and can be switched off; then, and for small results, memory comes
from NumPy.
"""

import itertools
from collections import OrderedDict
from typing import Any

import numpy

from bnspec._errors import refusal
from bnspec_backends._deferred import Deferred

__all__ = ["MOST_BYTES", "Pool"]

#: Largest limit that a pool takes.
MOST_BYTES = (1 << 63) - 1

#: Results smaller than this come from the ordinary allocator, which keeps small blocks anyway.
SMALLEST = 1 << 20


class _Lease:
    """Buffer on loan, which is the base of the first array made of it, so every view keeps it alive."""

    def __init__(self, pool: "Pool", raw: Any, size: int) -> None:
        self._pool, self._raw = pool, raw
        data = (raw.ctypes.data, False)
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": data, "version": 3}

    def __del__(self) -> None:
        self._pool._returned.leave(self._raw)


class Pool:
    """Pool of buffers that come back.

    Parameters
    ----------
    limit : int
        Bytes that may wait; the buffer unused for longest is freed first. 0 switches the pool off.

    Examples
    --------
    >>> pool = Pool(limit=1 << 30)
    >>> a = pool.empty(1 << 21)
    >>> address = a.ctypes.data
    >>> del a
    >>> pool.waiting == 1 << 21, pool.empty(1 << 21).ctypes.data == address
    (True, True)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._returned: Deferred[Any] = Deferred(self._give_back)  # a result may die in the middle of `_take`
        self._idle: OrderedDict[int, Any] = OrderedDict()
        self._numbers = itertools.count()
        self.waiting = 0
        self.reused = 0

    @property
    def limit(self) -> int:
        """Most bytes that may wait."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= MOST_BYTES:
            raise refusal(
                ValueError,
                "BN-ERR-1",
                got=f"limit is {limit!r}",
                expected=f"a whole number of bytes from 0 to {MOST_BYTES}",
                do="0 switches the pool off.",
            )
        with self._returned:
            self._limit = limit
            self._shrink()

    def empty(self, size: int) -> Any:
        """Return a contiguous array of that many bytes, aligned to 64, with any content."""
        if size < SMALLEST or not self._limit:
            return _aligned(size)
        raw = self._take(size)
        if raw is None:
            raw = _aligned(size)
        return numpy.asarray(_Lease(self, raw, size))

    def clear(self) -> None:
        """Free the buffers that wait."""
        with self._returned:
            self._idle.clear()
            self.waiting = 0

    def start_afresh(self) -> None:
        """Renew the lock in a forked child, and the sum that a thread of the parent may have left half done."""
        self._returned.start_afresh()
        self.waiting = sum(raw.size for raw in self._idle.values())

    def _take(self, size: int) -> Any:
        """Take out the buffer that wastes least, and at most a quarter of the size."""
        with self._returned:
            idle = list(self._idle.items())
            fitting = [(raw.size, -key) for key, raw in idle if size <= raw.size <= size + size // 4]
            if not fitting:
                return None
            _, key = min(fitting)  # of several of one size the one used last: it may still be in cache
            raw = self._idle.pop(-key, None)
            if raw is None:  # a signal's handler took it meanwhile
                return None
            self.waiting -= raw.size
            self.reused += 1
            return raw

    def _give_back(self, raw: Any) -> None:
        """Keep a buffer, with the lock held."""
        if raw.size <= self._limit:
            self._idle[next(self._numbers)] = raw
            self.waiting += raw.size
            self._shrink()

    def _shrink(self) -> None:
        while self.waiting > self._limit and self._idle:
            _, raw = self._idle.popitem(last=False)
            self.waiting -= raw.size


def _aligned(size: int) -> Any:
    raw = numpy.empty(size + 64, numpy.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]
