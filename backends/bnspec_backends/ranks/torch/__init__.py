"""Communicator of the ranks of a torch.distributed process group.

Layers call `communicator`; `exchange` is one collective, `gathers` moves its bytes through gloo, `devices` moves arrays
of devices, `board` has the notices of ranks that fail or end, and `exit` ends the communicators of a program.
"""

from bnspec_backends.ranks.torch.communicator import TorchCommunicator, world

__all__ = ["TorchCommunicator", "world"]
