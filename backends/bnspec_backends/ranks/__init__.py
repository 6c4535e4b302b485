"""Communicators of ranks: threads, MPI processes, CUDA devices through NCCL, torch's process groups, and axes of JAX.

`AxisCommunicator`, `MPICommunicator`, `NCCLCommunicator` and `TorchCommunicator` are imported when they are first asked
for, and need the extras ``jax``, ``mpi``, ``cuda`` and ``torch``. The other modules are shared by the communicators of
processes and threads: facts that ranks compare (`facts`), the format of messages (`headers`), the order of messages
(`schedule`), the first failure (`failure`), notices of failures (`notices`) and waits with a deadline (`waiting`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from bnspec_backends.ranks import threads

if TYPE_CHECKING:
    from bnspec_backends.ranks.axis import AxisCommunicator
    from bnspec_backends.ranks.mpi import MPICommunicator
    from bnspec_backends.ranks.nccl import NCCLCommunicator
    from bnspec_backends.ranks.torch import TorchCommunicator

__all__ = ["AxisCommunicator", "MPICommunicator", "NCCLCommunicator", "TorchCommunicator", "threads"]

_MODULES = {
    "AxisCommunicator": "axis",
    "MPICommunicator": "mpi",
    "NCCLCommunicator": "nccl",
    "TorchCommunicator": "torch",
}


def __getattr__(name: str) -> Any:
    """Import a communicator at the first use of its name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
