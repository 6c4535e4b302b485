"""Where NCCL communicators come from."""

from typing import Any

from cupy.cuda import nccl

from bnspec._errors import refusal
from bnspec_backends.ranks.nccl.control import Control
from bnspec_backends.ranks.nccl.over_device import DeviceControl

__all__ = ["open_ranks"]


def open_ranks(comm: Any, deadline: float, share: bool) -> tuple[Any, Control]:
    """An NCCL communicator of our own and a control, of the ranks that were given."""
    if isinstance(comm, nccl.NcclCommunicator):
        return DeviceControl.beside(comm, deadline)
    try:
        from bnspec_backends.ranks.mpi.communicator import MPICommunicator
        from bnspec_backends.ranks.nccl.over_mpi import MPIControl
        from bnspec_backends.ranks.nccl.start import begin
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
