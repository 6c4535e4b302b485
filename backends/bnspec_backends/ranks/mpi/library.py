"""Whether MPI can be called: it runs from its beginning to its end, in the process that began it.

Every function of MPI's that is called outside of that ends the process by the library's own text, at best.
"""

import contextlib
import os
from typing import Any

from mpi4py import MPI

from bnspec._errors import CommunicatorError, refusal

__all__ = ["keep_for_parent", "refuse_unless_running", "running"]


class _Child:
    """Whether this process is a forked child, in which MPI runs only by its memory."""

    def __init__(self) -> None:
        self.inherited = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._look)

    def _look(self) -> None:
        self.inherited = self.inherited or MPI.Is_initialized()


_CHILD = _Child()
_KEPT: list[Any] = []


def keep_for_parent() -> None:
    """Keep MPI from ending in a forked child that ends in order, where mpi4py ends it as if the child were the rank.

    MPI ends for good with the last of its sessions, and this one the child never ends.
    """
    if _CHILD.inherited and MPI.Is_initialized() and not MPI.Is_finalized():
        with contextlib.suppress(NotImplementedError, MPI.Exception):  # before MPI 4 there are none
            _KEPT.append(MPI.Session.Init())


def running() -> bool:
    """Whether MPI has begun, has not ended, and is this process's own."""
    return MPI.Is_initialized() and not MPI.Is_finalized() and not _CHILD.inherited


def refuse_unless_running(what: str) -> None:
    """Refuse to begin something that needs MPI.

    Raises
    ------
    CommunicatorError
        It says what it was, and why MPI cannot be called.
    """
    if running():
        return
    if _CHILD.inherited:
        why, do = "in a forked child of a rank", "Let the child compute without a communicator."
    elif MPI.Is_finalized():
        why, do = "after MPI.Finalize()", "Call it behind the last layer, or leave it to mpi4py."
    else:
        why, do = "before MPI.Init()", "Call it first, or leave mpi4py.rc.initialize as it is."
    raise refusal(
        CommunicatorError,
        "BN-SYNC-9",
        got=f"{what} {why}",
        expected="MPI to run, in the process that began it",
        do=do,
    )
