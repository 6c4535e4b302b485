"""A Python subject in a process of its own: what crashes or hangs there is a failure of its case, and no more."""

import os
import sys
from collections.abc import Callable

from bnspec_conformance.subjects.pipe.program import Program
from bnspec_conformance.subjects.time_limit import PATIENCE

__all__ = ["Isolated"]


class Isolated(Program):
    """Subject that ``--isolate`` puts into a process of its own.

    bnspec's own layers stay in the other process, so that clauses about them are not supported.

    Parameters
    ----------
    name : str
        As `find_subject` takes it; of a module, or of an entry point.
    deadline : float
        Seconds for one case.
    trace : callable, optional
        As `Program` takes it.
    """

    def __init__(self, name: str, deadline: float, trace: Callable[[str], None] | None = None) -> None:
        # As `python -m` has it, a module beside the user is found.
        command = [sys.executable, "-m", "bnspec_conformance.subjects.pipe.host", name]
        super().__init__(name, trace, command=command, deadline=deadline)
        self.name = self._declared.name

    def version(self) -> str:
        """Return the version that the subject declares."""
        return self._declared.version

    @property
    def _first(self) -> float:
        """Seconds for the first answer, before which a library is loaded."""
        return max(3 * self.deadline, PATIENCE)

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
