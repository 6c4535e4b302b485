"""Communicators and arrays for the ranks' programs of test_mpi.py and test_nccl.py.

``BNSPEC_TEST_RANKS=nccl`` gives each process an emulated device, and joins the processes by an emulated NCCL.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from mpi4py import MPI

from bnspec_backends.ranks import schedule

KIND = os.environ.get("BNSPEC_TEST_RANKS", "mpi")
if joined := os.environ.get("BNSPEC_TEST_ROUNDS"):  # several rounds, as in large worlds
    schedule.ONE_ROUND, schedule._JOINED = 1, int(joined)

RANK, SIZE = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()

if KIND != "mpi":
    import cupy

    from bnspec_backends.ranks.nccl import NCCLCommunicator, world

    cupy.cuda.Device(0 if os.environ.get("BNSPEC_TEST_ONE_DEVICE") else RANK).use()

    def Communicator(deadline: Any) -> Any:  # noqa: N802
        return NCCLCommunicator(deadline=deadline)

    put, take = cupy.asarray, cupy.asnumpy

    @contextlib.contextmanager
    def own_stream() -> Iterator[None]:
        """For a thread, whose device is 0 at first, and whose collectives would come in an order of chance on a stream
        that another thread uses.
        """
        with cupy.cuda.Device(RANK), cupy.cuda.Stream(non_blocking=True):
            yield

    def rounds_of(comm: Any) -> Any:
        return comm._sender.rounds

else:
    from bnspec_backends.ranks.mpi import MPICommunicator as Communicator  # type: ignore[assignment]
    from bnspec_backends.ranks.mpi import world  # type: ignore[assignment]

    def put(x: Any) -> Any:
        return x

    take = put
    own_stream = contextlib.nullcontext  # type: ignore[assignment]

    def rounds_of(comm: Any) -> Any:
        return comm._exchange.plan


gathered = MPI.COMM_WORLD.allgather

__all__ = [
    "KIND",
    "RANK",
    "SIZE",
    "Communicator",
    "gathered",
    "own_stream",
    "put",
    "rounds_of",
    "take",
    "world",
]
