"""Where NCCL communicators come from, and what happens to them at the end of the program."""

import atexit
import functools
import sys
import weakref
from typing import Any

from cupy.cuda import nccl

from bnspec._errors import CommunicatorError, refusal
from bnspec_backends._nccl.control import Control
from bnspec_backends._nccl.over_device import DeviceControl

__all__ = ["close_at_exit", "open_ranks"]

_OPEN: "weakref.WeakSet[Any]" = weakref.WeakSet()


def open_ranks(comm: Any, deadline: float, share: bool) -> tuple[Any, Control]:
    """An NCCL communicator of our own and a control, of the ranks that were given."""
    if isinstance(comm, nccl.NcclCommunicator):
        return DeviceControl.beside(comm, deadline)
    try:
        from bnspec_backends._mpi import MPICommunicator
        from bnspec_backends._nccl.over_mpi import MPIControl
        from bnspec_backends._nccl.start import begin
    except ImportError as error:
        raise refusal(
            ImportError,
            "BN-ERR-5",
            got=f"communicator 'nccl' cannot reach the other ranks ({error})",
            expected="mpi4py, or an NcclCommunicator",
            do="Try `pip install bnspec[cuda,mpi]`.",
        ) from error
    over = MPICommunicator(comm, deadline)
    try:
        control = MPIControl(over)
        return begin(control, over.rank, share), control
    except BaseException as error:
        over.close(error)
        raise


def close_at_exit(comm: Any) -> None:
    """Close a communicator at the end of the program, if it still is there and open."""
    _OPEN.add(comm)
    _at_exit()


@functools.cache
def _at_exit() -> None:
    """Register once, after MPI, so that MPI ends later."""
    atexit.register(_leave)


def _leave() -> None:
    ending = sys.modules.get("bnspec_backends._ending")
    for comm in list(_OPEN):
        try:
            comm.close(ending.ENDING.error if ending else None)
        except CommunicatorError as error:  # nobody called it again to hear of it
            sys.excepthook(type(error), error, error.__traceback__)
            if ending:
                ending.ENDING.late = True
