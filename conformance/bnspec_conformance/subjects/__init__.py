"""Subjects: what can be put to the test, found by entry point or by ``module:attribute``.

A subject says which cases it supports and runs one. Nothing else is asked of it, so our own backends, a
framework's layer and a program behind a pipe are checked by the same clauses.
"""

import importlib
import os
import sys
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol

from bnspec_conformance.case import Case, Outcome

__all__ = ["Subject", "SubjectError", "find_subject", "known_subjects"]


class Subject(Protocol):
    """The contract with whatever is tested: name, `supports` and `run`. The rest has defaults.

    Attributes
    ----------
    name : str
        As it is asked for on the command line.
    dtypes : tuple of str
        Dtypes of x it takes, of float16, bfloat16, float32, float64.
    arithmetic : {"float64", "float32"}
        The widest format it computes statistics in; bounds follow from it.
    flushes : bool
        Whether subnormal numbers count as 0 on it; declared, so that it is not hidden.
    examples : int
        Cases per check, unless the command line says otherwise.
    backend : Backend or None
        bnspec's backend, for the clauses about bnspec's own layers; None for everything else.
    """

    name: str
    dtypes: tuple[str, ...]
    arithmetic: Literal["float64", "float32"]
    flushes: bool
    examples: int
    backend: Any

    def version(self) -> str:
        """Name and version of what is tested, for the report."""
        ...

    def supports(self, case: Case) -> str | None:
        """None, or the reason why this case cannot be run; a case that is not supported is never a pass."""
        ...

    def run(self, case: Case) -> Outcome:
        """Run the case; an exception means that the case was refused."""
        ...


#: What a subject need not say: it takes float32 and float64 and computes in float64.
_DEFAULTS: dict[str, Any] = {
    "dtypes": ("float32", "float64"),
    "arithmetic": "float64",
    "flushes": False,
    "examples": 40,
    "backend": None,
}


class SubjectError(Exception):
    """A subject that was asked for cannot be had; the text says why and what to install."""


def known_subjects() -> list[str]:
    """Names of the subjects that installed packages declare."""
    return sorted(entry_points(group="bnspec.subjects").names)


def find_subject(name: str) -> Subject:
    """Return a subject by its entry-point name or as ``module:attribute``.

    Raises
    ------
    SubjectError
        For an unknown name, listing the known ones, and for a subject whose library is missing.
    """
    points = entry_points(group="bnspec.subjects")
    try:
        if name in points.names:
            made: Any = points[name].load()
        elif ":" in name:
            module, attribute = name.split(":", 1)
            if "" not in sys.path and os.getcwd() not in sys.path:  # a module beside the user, as python -m finds it
                sys.path.insert(0, os.getcwd())
            made = getattr(importlib.import_module(module), attribute)
        else:
            known = ", ".join(sorted(points.names)) or "none, for bnspec is not installed (`pip install -e .`)"
            raise SubjectError(f"unknown subject {name!r}; expected one of {known}, or module:attribute.")
        subject: Any = made() if callable(made) else made
    except (ImportError, AttributeError) as error:
        raise SubjectError(f"subject {name!r} cannot be had: {error}") from error
    for field, value in _DEFAULTS.items():
        if not hasattr(subject, field):
            setattr(subject, field, value)
    if not hasattr(subject, "version"):
        subject.version = lambda: name
    found: Subject = subject
    return found
