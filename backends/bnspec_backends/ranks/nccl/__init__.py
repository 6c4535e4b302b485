"""Ranks with a CUDA device each: `NCCLCommunicator` joins their statistics through cupy.cuda.nccl.

`communicator` is what layers call; `messages` says what travels, `watch` looks after what is under way, and `start`
makes NCCL communicators. What the hosts must tell each other goes another way, a `control`: `over_mpi`, or
`over_device` where nothing but an NCCL communicator is given.
"""

from cupy.cuda import nccl

if not nccl.available:
    raise ImportError("CuPy finds no NCCL library")

from bnspec_backends.ranks.nccl.communicator import NCCLCommunicator, world

__all__ = ["NCCLCommunicator", "world"]
