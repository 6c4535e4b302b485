"""Subjects: what can be put to the test, found by entry point, by ``module:attribute`` or as ``exec:PROGRAM``.

A subject says which cases it supports and runs one. Nothing else is asked of it, so our own backends, a
framework's layer and a program behind a pipe are checked by the same clauses.
"""

from typing import Any, Literal, Protocol

from bnspec_conformance.cases.case import Case, Outcome
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects import find as _find
from bnspec_conformance.subjects.find import SubjectError, is_ours, known_subjects, quietly, version_of

__all__ = [
    "NotSupported",
    "Refused",
    "Subject",
    "SubjectError",
    "asked_as",
    "complete",
    "find_subject",
    "is_ours",
    "known_subjects",
    "quietly",
    "version_of",
]


class Subject(Protocol):
    """The contract with whatever is tested: name, `supports` and `run`. The rest has defaults.

    Attributes
    ----------
    name : str
        As reports call it; any text. What it was asked for by is kept beside it (`asked_as`).
    scope : Scope
        What it can be asked; cases are drawn inside it.
    arithmetic : {"float64", "float32"}
        The widest format it computes statistics of 32 and 16 bits in; bounds follow from it. float64 x is always
        computed in float64.
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
    """

    name: str
    scope: Scope
    arithmetic: Literal["float64", "float32"]
    bound: Literal["strict", "plain"]
    flushes: bool
    examples: int
    dialect: str | None
    backend: Any

    def version(self) -> str:
        """Name and version of what is tested, for the report."""
        ...

    def supports(self, case: Case) -> str | None:
        """None, or the reason why this case cannot be run; a case that is not supported is never a pass."""
        ...

    def run(self, case: Case) -> Outcome:
        """Run the case and return what it gives, in new arrays.

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


def find_subject(name: str, *, deadline: float | None = None, isolate: bool = False) -> Subject:
    """Return a subject by its entry-point name, as ``module:attribute`` or as ``exec:PROGRAM``.

    This imports the module or starts the program: a name that comes out of a file is for `is_ours` to look at first.

    Parameters
    ----------
    name : str
    deadline : float, optional
        Seconds that a program, or a process of its own, may take for a case; in this process `Budget` says it.
    isolate : bool
        Whether to run what is Python in a process of its own.

    Raises
    ------
    SubjectError
        For an unknown name, listing the known ones, for a subject whose library is missing, and for one whose module
        does not import.
    """
    found: Subject = _find.find(name, deadline, isolate)
    return found


def complete(subject: Any, name: str) -> Subject:
    """Give a subject the defaults of what it does not say."""
    found: Subject = _find.complete(subject, name)
    return found


def asked_as(subject: Subject) -> str:
    """What finds the subject again, which need not be what it calls itself."""
    return str(getattr(subject, "asked", subject.name))
