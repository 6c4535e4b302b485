"""End of a program whose ranks are MPI processes: no rank waits for one that is gone, and the job ends too.

A rank sends one notice for all of its communicators, and waits for all of them together.
"""

import atexit
import functools
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from mpi4py import MPI

from bnspec._errors import CollectiveTimeout
from bnspec_backends.ranks.mpi.library import keep_for_parent, running
from bnspec_backends.ranks.waiting import GRACE, wait

__all__ = ["ENDING", "close_before_finalize"]


class Ending:
    """State that the end of the program needs.

    Attributes
    ----------
    exchanges : set of Exchange
        The open exchanges.
    peers : list of Peers
        The transports of open and former exchanges.
    before : list of callable
        Called first, while MPI still runs, with the error that ended the program, or None.
    unfinished : bool
        Whether a collective of MPI's own was begun and never ended.
    failed_late : bool
        Whether an error was found after the program had ended without one.
    error : BaseException or None
        The error that ended the program.
    """

    def __init__(self) -> None:
        self.exchanges: set[Any] = set()
        self.peers: list[Any] = []
        self.before: list[Callable[[BaseException | None], None]] = []
        self.unfinished = False
        self.failed_late = False
        self.error: BaseException | None = None
        self._hook, sys.excepthook = sys.excepthook, self._uncaught

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.error = error
        self._hook(kind, error, trace)

    def patience(self) -> float:
        """Return the seconds that this rank gives the others to end, before it ends the job.

        After a timeout the other ranks have waited already. After another error they may still be computing, and get
        the notice in their next collective.
        """
        if isinstance(self.error, CollectiveTimeout):
            return GRACE
        waiting = [group.deadline() for peers in self.peers for group in list(peers.groups.values()) if group.awaited]
        return max(waiting, default=0.0) + GRACE

    def close(self, error: BaseException | None) -> None:
        """Close all open exchanges, and wait a short time until the other ranks have the notices, and ended too.

        A rank that went on as soon as its own notices were taken would leave those of slower ranks unread.
        """
        from bnspec_backends.ranks.mpi.exchange import close_together

        for close in self.before:
            close(error)
        close_together(list(self.exchanges), error)
        until = time.perf_counter() + GRACE
        wait(lambda: not sum(not (peers.all_delivered() and peers.all_left()) for peers in self.peers), until)


ENDING = Ending()


@functools.cache
def close_before_finalize() -> None:
    """Close open exchanges when the program itself ends MPI, which deletes the attributes of COMM_SELF first."""
    MPI.COMM_SELF.Set_attr(MPI.Comm.Create_keyval(delete_fn=_finalizing), ENDING)


def _finalizing(comm: "MPI.Comm", key: int, ending: Ending) -> None:
    if running():
        ending.close(sys.exc_info()[1])


@atexit.register
def _leave() -> None:
    """Close all exchanges at exit; after an error, end the job if the other ranks do not end.

    MPI's own end waits for every rank, so that a stuck rank would keep the job from ending.
    """
    if not running():
        keep_for_parent()
        return
    ENDING.close(ENDING.error)
    left = True
    if ENDING.error is not None:
        until = time.perf_counter() + ENDING.patience()
        left = wait(lambda: not sum(not peers.all_left() for peers in ENDING.peers), until)
    if ENDING.unfinished or ENDING.failed_late or not left:
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
