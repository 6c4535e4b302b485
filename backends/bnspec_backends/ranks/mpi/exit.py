"""The end of a program whose ranks are MPI processes: nobody waits for a rank that is gone, and the job ends too.

However many communicators there are, the ranks tell each other once, and all that is waited for is waited for together.
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
from bnspec_backends.ranks.notices import GRACE, wait

__all__ = ["ENDING", "close_before_finalize"]


class Ending:
    """What the end of the program has to know.

    Attributes
    ----------
    exchanges : set of Exchange
        Those that are open.
    peers : list of Peers
        Who carries their messages, or did.
    before : list of callable
        What else is to be closed, and needs MPI; called with the error that ended the program, or None.
    stuck : bool
        Whether a collective of MPI's own was begun and never ended.
    late : bool
        Whether an error came to light when the program had ended already, as if all were well.
    error : BaseException or None
        That ended the program.
    """

    def __init__(self) -> None:
        self.exchanges: set[Any] = set()
        self.peers: list[Any] = []
        self.before: list[Callable[[BaseException | None], None]] = []
        self.stuck = False
        self.late = False
        self.error: BaseException | None = None
        self._hook, sys.excepthook = sys.excepthook, self._uncaught

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.error = error
        self._hook(kind, error, trace)

    def patience(self) -> float:
        """Seconds that this rank gives the others to end too, before it ends the job.

        Where it is a rank that did not come in time, the others have waited already. After another error they may
        still be computing, and hear of it when they come to their next collective.
        """
        if isinstance(self.error, CollectiveTimeout):
            return GRACE
        waiting = [group.deadline() for peers in self.peers for group in list(peers.groups.values()) if group.awaited]
        return max(waiting, default=0.0) + GRACE

    def close(self, error: BaseException | None) -> None:
        """Close all that is open, and wait until the others could hear of it, for so long as is reasonable in all."""
        from bnspec_backends.ranks.mpi.exchange import close_together

        for close in self.before:
            close(error)
        close_together(list(self.exchanges), error)
        until = time.perf_counter() + GRACE
        wait(lambda: not sum(not peers.all_delivered() for peers in self.peers), until)


ENDING = Ending()


@functools.cache
def close_before_finalize() -> None:
    """Close what is open when the program itself ends MPI: what MPI's own communicator has goes first."""
    MPI.COMM_SELF.Set_attr(MPI.Comm.Create_keyval(delete_fn=_finalizing), ENDING)


def _finalizing(comm: "MPI.Comm", key: int, ending: Ending) -> None:
    if running():
        ending.close(sys.exc_info()[1])


@atexit.register
def _leave() -> None:
    """Let nobody wait for a rank that has ended; and where it ended by an error, let the job end too.

    MPI's own end waits for every rank, so that one that is stuck would keep the job from ending.
    """
    if not running():
        keep_for_parent()
        return
    ENDING.close(ENDING.error)
    left = True
    if ENDING.error is not None:
        until = time.perf_counter() + ENDING.patience()
        left = wait(lambda: not sum(not peers.all_left() for peers in ENDING.peers), until)
    if ENDING.stuck or ENDING.late or not left:
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
