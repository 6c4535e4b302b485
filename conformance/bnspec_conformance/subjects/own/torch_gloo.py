"""bnspec on torch with ranks as the processes of a torch.distributed group: ``run torch-gloo --ranks 3``.

As with the subject mpi, every process runs the whole suite with the same seed. The processes find each other by the
environment variables that torchrun sets: ``torchrun --nproc-per-node 3 -m bnspec_conformance run torch-gloo``.
"""

import os

import bnspec
from bnspec_conformance.subjects.own.backends import cpu_evaluation
from bnspec_conformance.subjects.own.mpi import APART, MPIRankPool, OursOnMPI

__all__ = ["torch_gloo"]


def torch_gloo() -> OursOnMPI:
    """bnspec on torch and the processes of this job, joined by gloo."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    from bnspec_backends.ranks import TorchCommunicator

    if not dist.is_initialized():
        if "RANK" in os.environ:
            dist.init_process_group("gloo")
        else:
            dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    pool = MPIRankPool(TorchCommunicator(deadline=APART))
    library = f"gloo of torch {torch.__version__}"
    backend, evaluation = bnspec.get_backend("torch"), cpu_evaluation()
    return OursOnMPI("torch-gloo", backend, evaluation=evaluation, examples=20, pool=pool, library=library)
