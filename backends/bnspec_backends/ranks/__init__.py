"""Communicators of ranks: threads of one process, MPI processes, CUDA devices through NCCL, and torch's process groups.

`MPICommunicator`, `NCCLCommunicator` and `TorchCommunicator` are imported when they are first asked for, and need the
extras ``mpi``, ``cuda`` and ``torch``. The other modules are shared by the communicators: facts that ranks compare
(`facts`), the format of messages (`headers`), the order of messages (`schedule`), the first failure (`failure`),
notices of failures (`notices`) and waits with a deadline (`waiting`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from bnspec_backends.ranks import threads

if TYPE_CHECKING:
    from bnspec_backends.ranks.mpi import MPICommunicator
    from bnspec_backends.ranks.nccl import NCCLCommunicator
    from bnspec_backends.ranks.torch import TorchCommunicator

__all__ = ["MPICommunicator", "NCCLCommunicator", "TorchCommunicator", "threads"]

_FOLDERS = {"MPICommunicator": "mpi", "NCCLCommunicator": "nccl", "TorchCommunicator": "torch"}


def __getattr__(name: str) -> Any:
    """Import a communicator at the first use of its name."""
    if name not in _FOLDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FOLDERS[name]}"), name)
