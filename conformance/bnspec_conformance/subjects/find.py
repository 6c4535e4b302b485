"""Search for a subject by its name, and completion with defaults, whatever its module does on import."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bnspec._printable import printable
from bnspec_conformance.bounds.declared import ARITHMETICS, checked_evaluation
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.contract import Subject, SubjectError
from bnspec_conformance.subjects.ports_of_module import ports_in_words, see_modules_here
from bnspec_conformance.subjects.time_limit import PATIENCE

__all__ = ["complete", "find_subject", "is_ours", "known_subjects", "silenced", "version_of"]

_GROUP = "bnspec.subjects"

#: Where the modules of bnspec's own subjects are.
_OURS = "bnspec_conformance.subjects."

#: Defaults of the attributes that a subject may leave out.
_DEFAULTS: dict[str, Any] = {
    "arithmetic": "float64",
    "evaluation": {},
    "bound": "strict",
    "flushes": False,
    "examples": 40,
    "dialect": None,
    "backend": None,
}


class Completed:
    """Subject that takes no attributes, with the defaults beside it."""

    def __init__(self, subject: Any, said: dict[str, Any]) -> None:
        self._subject = subject
        self.__dict__.update(said)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)


def known_subjects() -> list[str]:
    """Names of the subjects that installed packages declare."""
    return sorted(entry_points(group=_GROUP).names)


def is_ours(name: str) -> bool:
    """Return whether this is one of bnspec's own subjects, which may run although only a file names it."""
    point = _entry_point(name)
    return point is not None and _is_ours(point)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Ignore warnings in the body, and send its prints to standard error, away from the results."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr or sys.stdout):
        warnings.simplefilter("ignore")
        yield


def find_subject(name: str, *, deadline: float | None = None, isolate: bool = False) -> Subject:
    """Return a subject by its entry-point name, as ``module:attribute`` or as ``exec:PROGRAM``.

    This imports the module or starts the program, so ask `is_ours` first about a name that was read from a file.

    Parameters
    ----------
    name : str
    deadline : float, optional
        Seconds that a program, or a process of its own, may take for a case; in this process `Budget` limits it.
    isolate : bool
        Whether to run a Python subject in a process of its own.

    Raises
    ------
    SubjectError
        For an unknown name, listing the known ones, for a subject whose library is missing, and for one whose module
        does not import.
    """
    point = _entry_point(name)
    with _telling(name), silenced():
        if name.startswith("exec:"):
            from bnspec_conformance.subjects.pipe.program import Program

            made: Any = Program(name, deadline=deadline)
        elif isolate:
            from bnspec_conformance.subjects.pipe.isolated import Isolated

            made = Isolated(name, PATIENCE if deadline is None else deadline)
        elif point is not None:
            made = point.load()
        elif ":" in name:
            module, attribute = name.split(":", 1)
            see_modules_here()
            made = getattr(importlib.import_module(module), attribute)
        else:
            known = ", ".join(known_subjects()) or "none, for bnspec is not installed (`pip install -e .`)"
            raise SubjectError(
                f"unknown subject {name!r}; expected one of {known}, or module:attribute, or exec:PROGRAM."
                f"{ports_in_words(name)}"
            )
        return complete(made() if callable(made) else made, name)


def complete(subject: Any, name: str) -> Subject:
    """Add the defaults to a subject, and as `asked` the name that finds it again.

    Raises
    ------
    SubjectError
        For an object that is no subject.
    """
    with _telling(name), silenced():
        missing = [m for m in ("supports", "run") if not callable(getattr(subject, m, None))]
        if missing:
            raise SubjectError(
                f"subject {name!r} is {type(subject).__name__} without {' and '.join(missing)}; expected an object "
                "with name, supports(case) and run(case); `bnspec-conformance new-port` writes one to start from."
            )
        said: dict[str, Any] = {field: value for field, value in _DEFAULTS.items() if not hasattr(subject, field)}
        if not hasattr(subject, "scope"):
            dtypes = tuple(getattr(subject, "dtypes", Scope.dtypes))
            said["scope"] = Scope(dtypes=dtypes, declared=False)
        elif not isinstance(subject.scope, Scope):
            raise SubjectError(f"subject {name!r} has scope {subject.scope!r:.60}; expected a Scope.")
        _check_arithmetics(subject, name)
        own = getattr(subject, "name", name)
        if not isinstance(own, str):
            raise SubjectError(f"subject {name!r} has name {own!r:.60}; expected a string.")
        if not hasattr(subject, "name") or printable(own, lines=False) != own:
            said["name"] = printable(own, lines=False)
        if not hasattr(subject, "version"):
            said["version"] = lambda: printable(name, lines=False)
        said["asked"] = name
        try:
            for field, value in said.items():
                setattr(subject, field, value)
        except (AttributeError, TypeError):  # slots, a frozen dataclass, a property, a compiled type
            subject = Completed(subject, said)
    completed: Subject = subject
    return completed


def _check_arithmetics(subject: Any, name: str) -> None:
    """Refuse arithmetics that do not exist; a misspelt one must not pass for the widest."""
    own = getattr(subject, "arithmetic", "float64")
    if own not in ARITHMETICS:
        raise SubjectError(
            f"subject {name!r} has arithmetic {own!r:.60}; expected one of {', '.join(reversed(ARITHMETICS))}."
        )
    try:
        checked_evaluation(getattr(subject, "evaluation", {}))
    except ValueError as error:
        raise SubjectError(
            f"subject {name!r} has evaluation {subject.evaluation!r:.60}; expected a mapping of {error}."
        ) from None


def version_of(subject: Any) -> str:
    """Return the version that a subject declares; it may warn, and an error is no reason to stop."""
    try:
        with silenced():
            return printable(str(subject.version()), lines=False)
    except Exception as error:
        return printable(f"unknown: version() raised {type(error).__name__}: {error}", lines=False)


@contextlib.contextmanager
def _telling(name: str) -> Iterator[None]:
    """Turn whatever the subject's own code raises into one line, without our traceback."""
    try:
        yield
    except (SubjectError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # SystemExit, and what test libraries skip with, among them
        text = str(error) or "without a word"
        raise SubjectError(f"subject {name!r} cannot be had: {type(error).__name__}: {text}") from error


def _entry_point(name: str) -> EntryPoint | None:
    """Return the entry point that packages declare under a name; bnspec's own comes first."""
    found = [point for point in entry_points(group=_GROUP) if point.name == name]
    return next((point for point in found if _is_ours(point)), next(iter(found), None))


def _is_ours(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == "bnspec" and point.value.startswith(_OURS)
