"""The suite without pytest: every check by name, and one attempt of one check on one subject."""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bnspec_conformance.checks
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record

__all__ = ["Check", "all_checks", "attempt", "checks", "checks_of"]


@dataclass(frozen=True)
class Check:
    """One check of the suite.

    Attributes
    ----------
    name : str
        ``module::function``.
    clauses : tuple of str
        The clauses that it proves.
    attempt : callable
        ``attempt(subject, budget, drawn=...) -> Record``.
    """

    name: str
    clauses: tuple[str, ...]
    attempt: Callable[..., Record]


@functools.cache
def all_checks() -> dict[str, Check]:
    """Return every check by name, in the order of the files and of the functions in them."""
    found: dict[str, Check] = {}
    modules = pkgutil.walk_packages(bnspec_conformance.checks.__path__, "bnspec_conformance.checks.")
    names = [m.name for m in modules if m.name.rpartition(".")[2].startswith("test_")]
    for module in sorted(names, key=lambda name: name.rpartition(".")[2]):
        for name, value in vars(importlib.import_module(module)).items():
            if name.startswith("test_") and hasattr(value, "attempt"):
                found[value.check] = Check(value.check, tuple(value.clauses), value.attempt)
    return found


def checks() -> dict[str, list[str]]:
    """Map the ids of clauses to the names of the checks that prove them."""
    found: dict[str, list[str]] = {}
    for check in all_checks().values():
        for clause in check.clauses:
            found.setdefault(clause, []).append(check.name)
    return found


def checks_of(clause: str) -> list[Check]:
    """Return the checks that prove a clause; those of few clauses first, which look most closely."""
    return sorted((c for c in all_checks().values() if clause in c.clauses), key=lambda c: len(c.clauses))


def attempt(check: Check, subject: Subject, budget: Budget, **drawn: Any) -> Record:
    """Run one check on one subject; whatever the subject does ends in a record.

    Parameters
    ----------
    check : Check
    subject : Subject
    budget : Budget
    drawn : Any, optional
        The argument of the check; without it the check draws its own.
    """
    try:
        return check.attempt(subject, budget, **drawn)
    except Exception as error:  # the check itself broke, which is no excuse for whoever was under test
        text = f"{' and '.join(check.clauses)}: {subject.name}: the check broke: {type(error).__name__}: {error}"
        details = {"clauses": list(check.clauses), "subject": subject.name, "problem": text, "case": None}
        return Record(check.name, check.clauses, subject.name, "failed", 0.0, reason=text, violation=details)
