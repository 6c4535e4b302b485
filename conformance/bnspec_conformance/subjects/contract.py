"""Contract between the suite and a subject: `Subject`, and the exceptions that have a meaning of their own in it."""

from typing import Any, Literal, Protocol

from bnspec._printable import printable
from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.cases.case import Case, Outcome
from bnspec_conformance.cases.scope import Scope

__all__ = ["NotSupported", "ProgramError", "Refused", "Subject", "SubjectError", "asked_as"]


class Subject(Protocol):
    """Implementation under test: `name`, `supports` and `run` are required, the rest has defaults.

    Attributes
    ----------
    name : str
        Its name in reports; any text. The name that finds it again is kept beside it (`asked_as`).
    scope : Scope
        Declared capabilities; cases are drawn inside it.
    arithmetic : {"float64", "twofold", "float32"}
        W, in which it carries sums and statistics for x of 32 and 16 bits; twofold is the sum of two float32. Bounds
        follow from it. float64 x is always computed in float64.
    evaluation : Evaluation
        E, in which it evaluates the elementwise formulas of y (and ydot) and of dx, where that is narrower than W.
    bound : {"strict", "plain"}
        How ordinary clauses judge it: by the specification's bound, or by the wider one of an implementation that
        keeps the mean in a single number; clauses about hard inputs are strict for all. Reports name it.
    flushes : bool
        Whether subnormal numbers count as 0 on it; declared, so that it is not hidden.
    examples : int
        Cases per check, unless the command line says otherwise.
    dialect : str or None
        The row of `bnspec.dialects` that describes it; ``probe`` compares.
    backend : Backend or None
        bnspec's backend, for the clauses about bnspec's own layers; None for everything else.

    A subject may have two more: ``patience``, the seconds it takes at most for a case, and ``in_process``, False where
    it gets the values of a case but not the arrays themselves.
    """

    name: str
    scope: Scope
    arithmetic: Literal["float64", "twofold", "float32"]
    evaluation: Evaluation
    bound: Literal["strict", "plain"]
    flushes: bool
    examples: int
    dialect: str | None
    backend: Any

    def version(self) -> str:
        """Return the name and version of the library under test, for the report."""
        ...

    def supports(self, case: Case) -> str | None:
        """Return None, or the reason why this case cannot be run; an unsupported case is never a pass."""
        ...

    def run(self, case: Case) -> Outcome:
        """Run the case and return its results in new arrays.

        Raises
        ------
        NotSupported
            For a case that turns out to be beyond it.
        Refused
            For a case that it refuses, in its own words, as the specification may ask of it. Any other exception
            counts as a refusal where one is due, and as a failure everywhere else.
        """
        ...


class NotSupported(Exception):
    """The subject cannot run a case; the text says why."""


class Refused(Exception):
    """The subject refused a case; the text is its own."""


class SubjectError(Exception):
    """A requested subject is not available; the text says why and what to install."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class ProgramError(Exception):
    """A program under test did not keep to the protocol; the text says how, at which request, and what was expected.

    A program that crashes raises this too, so it is never taken for a refusal.

    Attributes
    ----------
    hung : bool
        Whether it gave no answer in time.
    answered : bool
        Whether it is well and reported an error of its own, which refuses a case that nobody could compute.
    """

    def __init__(self, text: str, *, hung: bool = False, answered: bool = False) -> None:
        super().__init__(text)
        self.hung = hung
        self.answered = answered


def asked_as(subject: Subject) -> str:
    """Return the name that finds the subject again, which may differ from `Subject.name`."""
    return str(getattr(subject, "asked", subject.name))
