"""Ranks as MPI processes: `MPICommunicator` joins their statistics through mpi4py.

`communicator` is what layers call, `exchange` is one collective, `transport` moves its messages, and `exit` ends the
communicators of a program.
"""

from bnspec_backends.ranks.mpi.communicator import MPICommunicator, world

__all__ = ["MPICommunicator", "world"]
