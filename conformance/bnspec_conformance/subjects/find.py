"""Search for a subject by its name, and completion with defaults, whatever its module does on import."""

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Collection, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bnspec._printable import printable
from bnspec_conformance.bounds.declared import ARITHMETICS, checked_evaluation
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.contract import Subject, SubjectError
from bnspec_conformance.subjects.parameters import made_with, named_with, parameters_of, split
from bnspec_conformance.subjects.ports_of_module import ports_in_words, see_modules_here
from bnspec_conformance.subjects.time_limit import PATIENCE

__all__ = ["complete", "find_subject", "is_ours", "known_subjects", "silenced", "takes", "version_of"]

_GROUP = "bnspec.subjects"

#: Where the modules of bnspec's own subjects are.
_OURS = "bnspec_conformance.subjects."

#: Model files as subjects: the kind that a name begins with, to the function of a path that makes the subject.
_FILES = {
    "onnx": "bnspec_conformance.subjects.frameworks.onnx.model_file:model",
    "torchscript": "bnspec_conformance.subjects.frameworks.torch.script_file:model",
}

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
    point = _entry_point(split(name)[0])
    return point is not None and _is_ours(point)


def takes(name: str, parameters: Collection[str]) -> bool:
    """Return whether a declared subject takes these parameters in its name; one that cannot be imported takes none."""
    point = _entry_point(name)
    try:
        with silenced():
            return point is not None and set(parameters) <= set(parameters_of(point.load()))
    except Exception:  # whatever its module does, asking is no reason to stop
        return False


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Ignore warnings in the body, and send its prints to standard error, away from the results."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr or sys.stdout):
        warnings.simplefilter("ignore")
        yield


def find_subject(name: str, *, deadline: float | None = None, isolate: bool = False) -> Subject:
    """Return a subject by its entry-point name, as ``module:attribute``, ``exec:PROGRAM`` or ``onnx:FILE``.

    A name may end in parameters: ``torch-nn@device=cuda``. This imports the module or starts the program, so ask
    `is_ours` first about a name that was read from a file.

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
        For an unknown name, listing the known ones, for a subject whose library is missing, for one whose module
        does not import, and for a parameter that it does not take.
    """
    bare, given = split(name)
    with _telling(name), silenced():
        if name.startswith("exec:"):
            from bnspec_conformance.subjects.pipe.program import Program

            return complete(Program(name, deadline=deadline), name)
        if isolate:
            from bnspec_conformance.subjects.pipe.isolated import Isolated

            return complete(Isolated(name, PATIENCE if deadline is None else deadline), name)
        return complete(made_with(_found(bare), given, name), name)


def _found(name: str) -> Any:
    """Return what a name without parameters leads to: an object, or what makes one."""
    point, (kind, _, rest) = _entry_point(name), name.partition(":")
    if point is not None:
        return point.load()
    if kind in _FILES and rest:
        module, attribute = _FILES[kind].split(":")
        return functools.partial(getattr(importlib.import_module(module), attribute), rest)
    if rest:
        see_modules_here()
        return getattr(importlib.import_module(kind), rest)
    known = ", ".join(known_subjects()) or "none, for bnspec is not installed (`pip install -e .`)"
    files = " or ".join(f"{kind}:FILE" for kind in _FILES)
    raise SubjectError(
        f"unknown subject {name!r}; expected one of {known}, or module:attribute, or exec:PROGRAM, or {files}; "
        f"parameters are written NAME@key=value.{ports_in_words(name)}"
    )


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
        shown = named_with(printable(own, lines=False), name)
        if not hasattr(subject, "name") or shown != own:
            said["name"] = shown
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
