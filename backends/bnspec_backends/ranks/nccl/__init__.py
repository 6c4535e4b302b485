"""Communicator of ranks with a CUDA device each, through cupy.cuda.nccl.

Layers call `communicator`; `sender` queues a collective on a stream, `watchdog` checks the pending ones, and `start`
makes NCCL communicators. The hosts of the ranks reach each other over MPI (`control`).
"""

from cupy.cuda import nccl

from bnspec._errors import refusal

if not nccl.available:
    raise ImportError("CuPy finds no NCCL library")
try:
    from mpi4py import MPI  # noqa: F401
except (ImportError, RuntimeError) as error:  # mpi4py raises the latter where it finds no MPI
    raise refusal(
        ImportError,
        "BN-ERR-5",
        got=f"communicator 'nccl' cannot reach the other ranks ({error})",
        expected="mpi4py and an MPI library",
        do="Try `pip install bnspec[cuda,mpi]`.",
    ) from error

from bnspec_backends.ranks.nccl.communicator import NCCLCommunicator, world

__all__ = ["NCCLCommunicator", "world"]
