"""State of the MPI library: it can be called between its beginning and its end, in the process that began it.

A call of MPI at another time ends the process, at best with the library's own text.
"""

import contextlib
import os
from typing import Any

from mpi4py import MPI

from bnspec._errors import CommunicatorError, refusal

__all__ = ["keep_for_parent", "refuse_unless_running", "running"]


class _Child:
    """Mark of a forked child, which inherited MPI's memory and is no rank."""

    def __init__(self) -> None:
        self.inherited = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._look)

    def _look(self) -> None:
        self.inherited = self.inherited or MPI.Is_initialized()


_CHILD = _Child()
_KEPT: list[Any] = []


def keep_for_parent() -> None:
    """Keep mpi4py from ending MPI in a forked child that ends in order, as if the child were the rank.

    MPI ends with the last of its sessions, and the child never ends this one.
    """
    if _CHILD.inherited and MPI.Is_initialized() and not MPI.Is_finalized():
        with contextlib.suppress(NotImplementedError, MPI.Exception):  # before MPI 4 there are none
            _KEPT.append(MPI.Session.Init())


def running() -> bool:
    """Return whether MPI has begun, has not ended, and was begun by this process."""
    return MPI.Is_initialized() and not MPI.Is_finalized() and not _CHILD.inherited


def refuse_unless_running(what: str) -> None:
    """Refuse a call that needs MPI, if MPI does not run.

    Raises
    ------
    CommunicatorError
        MPI cannot be called; the text has `what` and the reason.
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
