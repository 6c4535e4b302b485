"""bnspec on NumPy with ranks as the processes of an MPI job: ``mpiexec -n 3 bnspec-conformance run mpi``.

Every process runs the whole suite with the same seed, so all draw the same cases. The ranks of a case are the first
processes of the job, joined by an `MPICommunicator` of their own; afterwards all processes exchange what each rank
found, so that each judges the whole outcome and all go on alike. Only the first process reports.
"""

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import bnspec
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.own.backends import Ours, cpu_evaluation
from bnspec_conformance.subjects.own.rank_pool import first_error
from bnspec_conformance.subjects.time_limit import TooLong

__all__ = ["APART", "MPIRankPool", "OursOnMPI", "mpi", "mpi_version"]

T = TypeVar("T")

#: Seconds by which processes may differ between two cases; more than a check's own patience.
APART = 300.0


class MPIRankPool:
    """Processes of the job as a `RankPool`.

    Attributes
    ----------
    size : int
        Processes.
    """

    def __init__(self, control: Any) -> None:
        self.size: int = control.size
        self._control = control

    def run(self, size: int, fn: Callable[[Any], T], *, deadline: float) -> list[T]:
        """Call a function on the first processes of the job (`RankPool.run`)."""
        found = self.outcomes(size, fn, deadline=deadline)
        error = first_error(found)
        if error is not None:
            raise error
        return found

    def outcomes(self, size: int, fn: Callable[[Any], Any], *, deadline: float) -> list[Any]:
        """Call a function and keep every exception (`RankPool.outcomes`); all processes of the job take part."""
        control = self._control
        what = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', '')}({size})"
        part = self._part(size, control.rank < size)
        part.deadline = deadline
        mine: Any = None
        if control.rank < size:
            try:
                mine = self._call(part, fn)
            except Exception as error:
                mine = error
            except TooLong as error:  # is to be told like any other, or the others wait for this process
                mine = TimeoutError(str(error))
        gathered = control.all_gather(_pickled(mine), operation="outcomes", what=what)
        return [pickle.loads(each) for each in gathered[:size]]

    def _part(self, size: int, inside: bool) -> Any:
        """Return a communicator of the first so many processes, and one of the others."""
        return self._control.split("in" if inside else "out")

    def _call(self, part: Any, fn: Callable[[Any], Any]) -> Any:
        with part:
            return fn(part)


@dataclasses.dataclass
class OursOnMPI(Ours):
    """bnspec on ranks of an MPI job; what one process computes for itself is as in `Ours`."""

    library: str = ""

    @property
    def scope(self) -> Scope:
        """Everything; as many ranks as the job has processes."""
        return Scope(dtypes=tuple(self.backend.dtypes()), world=self.pool.size)

    def version(self) -> str:
        """Return the libraries, and the size of the job."""
        number = self.pool.size
        on = f"{self.backend.name} {self.backend.version()}"
        said = f"bnspec {bnspec.__version__} on {on}, {self.library}, {number} process"
        return said + ("es" if number > 1 else ": nothing that needs several ranks can be shown")


def mpi() -> OursOnMPI:
    """bnspec on NumPy and the processes of this MPI job."""
    from bnspec_backends.ranks import MPICommunicator

    pool = MPIRankPool(MPICommunicator(deadline=APART))
    backend, evaluation = bnspec.get_backend("numpy"), cpu_evaluation()
    return OursOnMPI("mpi", backend, evaluation=evaluation, examples=20, pool=pool, library=mpi_version())


def mpi_version() -> str:
    """mpi4py and the MPI library, with their versions."""
    import mpi4py
    from mpi4py import MPI

    first = MPI.Get_library_version().splitlines()[0].replace("\t", " ").strip(" \0")
    return f"mpi4py {mpi4py.__version__}, {' '.join(first.split())}"


def _pickled(value: Any) -> bytes:
    try:
        data = pickle.dumps(value)
        pickle.loads(data)
        return data
    except Exception:  # an exception of a kind that does not travel
        return pickle.dumps(RuntimeError(f"{type(value).__name__}: {value}"))
