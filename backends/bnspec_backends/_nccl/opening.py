"""Where NCCL communicators come from, and what happens to them at the end of the program."""

import atexit
import functools
import sys
import weakref
from typing import Any

from cupy.cuda import nccl

from bnspec._errors import refusal
from bnspec_backends._nccl.control import Control
from bnspec_backends._nccl.over_device import DeviceControl

__all__ = ["close_at_exit", "open_ranks"]

_OPEN: "list[weakref.ref[Any]]" = []


def open_ranks(comm: Any, deadline: float, share: bool) -> tuple[Any, Control]:
    """An NCCL communicator of our own and a control, of the ranks that were given."""
    if isinstance(comm, nccl.NcclCommunicator):
        return DeviceControl.beside(comm, deadline)
    try:
        from bnspec_backends._mpi import MPICommunicator
        from bnspec_backends._nccl.over_mpi import MPIControl
        from bnspec_backends._nccl.start import begin
    except (ImportError, RuntimeError) as error:  # mpi4py raises the latter where it finds no MPI
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
    _OPEN.append(weakref.ref(comm))
    _at_exit(mpi="bnspec_backends._ending" in sys.modules)


@functools.cache
def _at_exit(mpi: bool) -> None:
    """Register once before MPI is there and once after it: what is registered later runs earlier, and needs MPI."""
    atexit.register(_leave)


def _leave() -> None:
    """Close in the order in which they were made, which is the same on all ranks."""
    ending = sys.modules.get("bnspec_backends._ending")
    while _OPEN:
        comm = _OPEN.pop(0)()
        try:
            if comm is not None:
                comm.close(ending.ENDING.error if ending else None)
        except Exception as error:  # nobody called it again to hear of it
            sys.excepthook(type(error), error, error.__traceback__)
            if ending:
                ending.ENDING.late = True
