"""bnspec on CuPy with a CUDA device for each process of an MPI job, joined by NCCL: ``run nccl --ranks 2``.

As with the subject mpi, every process runs the whole suite with the same seed. NCCL takes long to begin, so that the
communicator of so many ranks serves one case after the other until it fails. Each call of it waits for its collective:
a check must see an error at the call that it is about.
"""

from collections.abc import Callable
from typing import Any

import bnspec
from bnspec_conformance.subjects.own.mpi import APART, MPIRankPool, OursOnMPI, mpi_version

__all__ = ["NCCLRankPool", "nccl"]


class NCCLRankPool(MPIRankPool):
    """The processes of the job, with their devices."""

    def __init__(self, control: Any, everyone: Any) -> None:
        super().__init__(control)
        self._all = everyone
        self._parts: dict[int, Any] = {}

    def outcomes(self, size: int, fn: Callable[[Any], Any], *, deadline: float) -> list[Any]:
        """Call a function and keep every exception (`RankPool.outcomes`); close a communicator whose ranks differ."""
        found = super().outcomes(size, fn, deadline=deadline)
        part = self._parts[size]
        state = f"{part.usable} {part.sequence}" if self._control.rank < size else "outside"
        states = self._control.all_gather(state.encode(), operation="state", what=str(size))
        if len(set(states[:size])) > 1 or states[0].startswith(b"False"):  # the ranks no longer agree where they are
            self._parts.pop(size).close(RuntimeError("a case that failed"))
        return found

    def _part(self, size: int, inside: bool) -> Any:
        if size not in self._parts:
            self._parts[size] = self._all.split("in" if inside else "out")
        return self._parts[size]

    def _call(self, part: Any, fn: Callable[[Any], Any]) -> Any:
        return fn(part)


def nccl() -> OursOnMPI:
    """bnspec on CuPy and the devices of this MPI job's processes."""
    backend = bnspec.get_backend("cupy")
    from mpi4py import MPI

    from bnspec_backends.ranks import MPICommunicator, NCCLCommunicator
    from bnspec_backends.ranks.nccl.start import version_text

    devices = len(backend.devices())
    local = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    if not devices:
        raise ImportError("CuPy is installed, but there is no CUDA device")
    import cupy

    cupy.cuda.Device(local.rank % devices).use()  # a launcher may have shown each process another one already
    everyone = NCCLCommunicator(deadline=APART, blocking=True)
    pool = NCCLRankPool(MPICommunicator(deadline=APART), everyone)
    library = f"NCCL {version_text()}, {mpi_version()}"
    return OursOnMPI("nccl", backend, examples=6, pool=pool, library=library)
