"""Subjects: what can be put to the test, found by entry point, by ``module:attribute`` or as ``exec:PROGRAM``.

A subject says which cases it supports and runs one. Nothing else is asked of it, so our own backends, a
framework's layer and a program behind a pipe are checked by the same clauses.
"""

import importlib
import os
import sys
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol

from bnspec_conformance.case import Case, Outcome
from bnspec_conformance.scope import Scope

__all__ = ["NotSupported", "Refused", "Subject", "SubjectError", "complete", "find_subject", "known_subjects"]


class Subject(Protocol):
    """The contract with whatever is tested: name, `supports` and `run`. The rest has defaults.

    Attributes
    ----------
    name : str
        As it is asked for on the command line.
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


#: What a subject need not say.
_DEFAULTS: dict[str, Any] = {
    "arithmetic": "float64",
    "bound": "strict",
    "flushes": False,
    "examples": 40,
    "dialect": None,
    "backend": None,
}


class SubjectError(Exception):
    """A subject that was asked for cannot be had; the text says why and what to install."""


def known_subjects() -> list[str]:
    """Names of the subjects that installed packages declare."""
    return sorted(entry_points(group="bnspec.subjects").names)


def find_subject(name: str) -> Subject:
    """Return a subject by its entry-point name, as ``module:attribute`` or as ``exec:PROGRAM``.

    Raises
    ------
    SubjectError
        For an unknown name, listing the known ones, for a subject whose library is missing, and for one whose module
        does not import.
    """
    points = entry_points(group="bnspec.subjects")
    try:
        if name.startswith("exec:"):
            from bnspec_conformance.subjects.program import Program

            made: Any = Program(name)
        elif name in points.names:
            made = points[name].load()
        elif ":" in name:
            module, attribute = name.split(":", 1)
            if "" not in sys.path and os.getcwd() not in sys.path:  # a module beside the user, as python -m finds it
                sys.path.insert(0, os.getcwd())
            made = getattr(importlib.import_module(module), attribute)
        else:
            known = ", ".join(sorted(points.names)) or "none, for bnspec is not installed (`pip install -e .`)"
            raise SubjectError(
                f"unknown subject {name!r}; expected one of {known}, or module:attribute, or exec:PROGRAM."
            )
        subject: Any = made() if callable(made) else made
    except SubjectError:
        raise
    except Exception as error:  # the subject's own code: its fault, told without our traceback
        raise SubjectError(f"subject {name!r} cannot be had: {type(error).__name__}: {error}") from error
    return complete(subject, name)


def complete(subject: Any, name: str) -> Subject:
    """Give a subject the defaults of what it does not say."""
    missing = [m for m in ("supports", "run") if not callable(getattr(subject, m, None))]
    if missing:
        raise SubjectError(
            f"subject {name!r} is {type(subject).__name__} without {' and '.join(missing)}; expected an object with "
            "name, supports(case) and run(case); `bnspec-conformance new-port` writes one to start from."
        )
    if not hasattr(subject, "scope"):
        dtypes = tuple(getattr(subject, "dtypes", Scope.dtypes))
        subject.scope = Scope(dtypes=dtypes, declared=False)
    for field, value in _DEFAULTS.items():
        if not hasattr(subject, field):
            setattr(subject, field, value)
    if not hasattr(subject, "name"):
        subject.name = name
    if not hasattr(subject, "version"):
        subject.version = lambda: name
    found: Subject = subject
    return found
