"""The end of a program whose ranks are MPI processes: nobody waits for a rank that is gone, and the job ends too."""

import atexit
import sys
import time
from types import TracebackType
from typing import Any

from mpi4py import MPI

from bnspec._errors import CollectiveTimeout
from bnspec_backends._news import GRACE

__all__ = ["ENDING"]


class Ending:
    """What the end of the program has to know."""

    def __init__(self) -> None:
        self.made: list[Any] = []  # all but parts
        self.stuck = False  # a collective of MPI's own was begun and never ended
        self.error: BaseException | None = None  # that ended the program
        self.late = False  # whether it came to light when the program had ended already, as if all were well
        self._hook, sys.excepthook = sys.excepthook, self._uncaught

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.error = error
        self._hook(kind, error, trace)

    def patience(self) -> float:
        """Seconds that this rank gives the others to end too, before it ends the job.

        Where it is a rank that did not come in time, the others have waited already. After another error they may
        still be computing, and hear of it when they come to their next collective.
        """
        late = isinstance(self.error, CollectiveTimeout)
        return GRACE if late else max((comm.deadline for comm in self.made), default=0.0) + GRACE


ENDING = Ending()


@atexit.register
def _leave() -> None:
    """Let nobody wait for a rank that has ended; and where it ended by an error, let the job end too.

    MPI's own end waits for every rank, so that one that is stuck would keep the job from ending.
    """
    if MPI.Is_finalized():
        return
    for comm in ENDING.made:
        comm.close(ENDING.error)
    for comm in ENDING.made:
        comm._peers.flush(time.perf_counter() + GRACE)
    until = time.perf_counter() + ENDING.patience()
    left = ENDING.error is None or all(comm._exchange.all_left(until) for comm in ENDING.made)
    if ENDING.stuck or ENDING.late or not left:
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
