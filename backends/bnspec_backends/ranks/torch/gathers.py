"""Gathers of bytes through a gloo group of our own; every wait ends, and a rank whose connection broke is found.

gloo ends the process of a rank that gets more bytes than it expects. So the number of bytes of a gather must follow
from what all ranks know alike, which is the business of `exchange`.

A wait for gloo's own work cannot be interrupted, and its end by a timeout closes the connections to all ranks. So the
work is polled, and that timeout is used to give up: it is the only way to end work that gloo has begun.
"""

import contextlib
import ctypes
import os
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions

from bnspec_backends.ranks.waiting import pause

__all__ = ["Broken", "Gathers"]

#: Seconds that gloo waits longer than we do, so that its own timeout is not the first.
_LONGER = 2.0

#: Most seconds that gloo is asked to wait: it counts them in nanoseconds.
_MOST = 1e8

#: Seconds of a wait after which `interrupted` is asked, and between two times that it is asked.
_QUIET, _BETWEEN = 0.1, 0.05

#: Tags of messages that nobody sends.
_PROBE, _NEVER = 1, 2


class Broken(Exception):
    """A gather that gloo could not do; the text is gloo's."""


class Gathers:
    """Gloo group of the ranks of one communicator.

    Parameters
    ----------
    store : torch.distributed.Store
        Where the ranks find each other.
    rank, size : int
    seconds : float
        How long to wait for the others to be connected.
    """

    def __init__(self, store: Any, rank: int, size: int, seconds: float) -> None:
        self.rank, self.size = rank, size
        self._group: Any = None
        if size == 1:
            return
        _ALIVE.add(self)
        with _gloo():
            self._group = dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=min(seconds, _MOST)))

    def gather(
        self, row: npt.NDArray[np.uint8], until: float, interrupted: Callable[[], bool]
    ) -> npt.NDArray[np.uint8] | None:
        """Return the rows of all ranks, or None if they did not come or something else ended the wait.

        Parameters
        ----------
        row : array of uint8
            As long on every rank.
        until : float
            Time to give up, on `time.perf_counter`'s clock.
        interrupted : callable
            Returns whether something else ends the wait; called now and then in a long one.

        Returns
        -------
        array of uint8, shape (size, number of bytes), or None
            After None gloo's work goes on, until `abort`.

        Raises
        ------
        Broken
            gloo failed, mostly because a rank is gone.
        """
        if self.size == 1:
            return row[None]
        rows = np.empty((self.size, len(row)), np.uint8)
        begun = time.perf_counter()
        options = AllgatherOptions()
        options.timeout = timedelta(seconds=min(max(until - begun, 0.0), _MOST) + _LONGER)
        with _gloo():
            work = self._group._allgather_base(torch.from_numpy(rows).view(-1), torch.from_numpy(row), options)
        asked = begun + _QUIET - _BETWEEN
        try:
            while not work.is_completed():
                if not pause(begun, until):
                    return None
                now = time.perf_counter()
                if now - asked > _BETWEEN:
                    asked = now
                    if interrupted():
                        return None
        except BaseException:
            self.abort()
            raise
        with _gloo():
            work.wait()
        return rows

    def broken(self) -> list[int]:
        """Return the ranks to which the connection is closed: gloo refuses to wait for a message of theirs."""
        found = []
        for rank in range(self.size):
            if rank != self.rank and self._group is not None:
                try:
                    self._group.recv([torch.from_numpy(np.empty(1, np.uint8))], rank, _PROBE)
                except RuntimeError:
                    found.append(rank)
        return found

    def abort(self) -> None:
        """Close all connections, which ends work that gloo has begun, here and on the ranks that wait for this one."""
        for rank in range(self.size):
            if rank == self.rank or self._group is None:
                continue
            try:
                work = self._group.recv([torch.from_numpy(np.empty(1, np.uint8))], rank, _NEVER)
            except RuntimeError:  # this connection is closed already
                continue
            with contextlib.suppress(RuntimeError):
                work.wait(timedelta(milliseconds=1))
            return

    def close(self) -> None:
        """Let go of the group, whose connections end with it."""
        self._group = None

    def keep_for_parent(self) -> None:
        """Never let go of the group in a forked child: gloo would wait there for threads that only the parent has."""
        if self._group is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._group))


_ALIVE: "weakref.WeakSet[Gathers]" = weakref.WeakSet()


def _keep_all() -> None:
    for each in list(_ALIVE):
        each.keep_for_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)


@contextlib.contextmanager
def _gloo() -> Any:
    try:
        yield
    except RuntimeError as error:
        raise Broken(str(error).split(". This is typically", 1)[0].strip()) from error
