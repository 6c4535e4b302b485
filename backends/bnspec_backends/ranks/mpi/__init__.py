"""Communicator of MPI processes, through mpi4py.

Layers call `communicator`; `exchange` is one collective, `transport` moves its messages, and `exit` ends the
communicators of a program.
"""

from bnspec_backends.ranks.mpi.communicator import MPICommunicator, world

__all__ = ["MPICommunicator", "world"]
