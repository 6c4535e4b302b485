"""State of the MPI library: it can be called between its beginning and its end, in the process that began it.

A call of MPI at another time ends the process, at best with the library's own text.
"""

import contextlib
import os
import sys
from typing import Any

from mpi4py import MPI

from bnspec._errors import CommunicatorError, refusal

__all__ = ["keep_for_parent", "refuse_alone_in_a_torch_job", "refuse_unless_running", "running"]


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


def refuse_alone_in_a_torch_job() -> None:
    """Refuse to be the only rank of MPI's world in a process that torch's launcher started together with others.

    Each of them would be a world of its own, and would train by its own statistics.

    Raises
    ------
    CommunicatorError
        MPI knows of one process, and torch of several.
    """
    if MPI.COMM_WORLD.Get_size() > 1:
        return
    given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    dist: Any = sys.modules.get("torch.distributed")
    if given["WORLD_SIZE"].isdecimal() and int(given["WORLD_SIZE"]) > 1:
        said = f"the environment says RANK={given['RANK']} and WORLD_SIZE={given['WORLD_SIZE']}, as torchrun sets them"
        size = int(given["WORLD_SIZE"])
    elif dist is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        size = dist.get_world_size()
        said = f"torch.distributed has {size}"
    else:
        return
    raise refusal(
        CommunicatorError,
        "BN-SYNC-9",
        got=f"MPI's world has 1 process, and {said}",
        expected=f"an MPI job of {size} processes",
        do='Take sync_statistics="torch" or TorchCommunicator(), or start the program with mpiexec.',
    )
