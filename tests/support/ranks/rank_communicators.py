"""Communicators and arrays for the ranks' programs of test_mpi.py, test_nccl.py and test_torch_groups.py.

``BNSPEC_TEST_RANKS=nccl`` gives each process an emulated device, and joins the processes by an emulated NCCL;
``BNSPEC_TEST_RANKS=torch`` joins them by gloo, in the default process group of torch.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from bnspec_backends.ranks import schedule

KIND = os.environ.get("BNSPEC_TEST_RANKS", "mpi")
if joined := os.environ.get("BNSPEC_TEST_ROUNDS"):  # several rounds, as in large worlds
    schedule.ONE_ROUND, schedule._JOINED = 1, int(joined)

if KIND == "torch":
    import torch.distributed as dist

    from bnspec_backends.ranks.torch import TorchCommunicator as Communicator
    from bnspec_backends.ranks.torch import world

    dist.init_process_group("gloo")
    RANK, SIZE = dist.get_rank(), dist.get_world_size()

    def put(x: Any) -> Any:
        return x

    take = put
    own_stream = contextlib.nullcontext

    def rounds_of(comm: Any) -> Any:
        return range(schedule.factor_for(comm.size)[1])

    def gathered(value: Any) -> Any:
        found: list[Any] = [None] * SIZE
        dist.all_gather_object(found, value)
        return found

else:
    from mpi4py import MPI

    RANK, SIZE = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
    gathered = MPI.COMM_WORLD.allgather

if KIND not in ("mpi", "torch"):
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

elif KIND == "mpi":
    from bnspec_backends.ranks.mpi import MPICommunicator as Communicator
    from bnspec_backends.ranks.mpi import world

    def put(x: Any) -> Any:
        return x

    take = put
    own_stream = contextlib.nullcontext

    def rounds_of(comm: Any) -> Any:
        return comm._exchange.plan


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
