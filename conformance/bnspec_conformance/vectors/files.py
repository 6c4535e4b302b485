"""Reads what `export` wrote and what a port answered; an error says where in which file it is."""

import dataclasses
import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bnspec_conformance.bounds.declared import ARITHMETICS, Evaluation, checked_evaluation
from bnspec_conformance.vectors.export import FORMAT

__all__ = ["RESULTS", "BadFile", "Results", "Vectors", "read_results", "read_vectors", "undeclarable"]

#: The format of a results file.
RESULTS = "bnspec-results/1"

#: Declarations of results: the values there are, and the default of a file that has none, which is the strictest.
_DECLARED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "arithmetic": (tuple(reversed(ARITHMETICS)), "float64"),
    "bound": (("strict", "plain"), "strict"),
    "flushes_subnormals": ((True, False), False),
}
_KNOWN = ("format", "name", "version", *_DECLARED, "evaluation", "results")
#: Vectors and results are some levels deep; a file of a thousand is an attack or an accident.
_DEEPEST = 32


class BadFile(Exception):
    """A file that cannot be used; the text says which, where and why."""


@dataclass(frozen=True)
class Vectors:
    """An export.

    Attributes
    ----------
    index : dict
        Of index.json.
    cases : dict of str to dict
        Every case as it stands in its file, by id.
    """

    index: dict[str, Any]
    cases: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """Results of a port.

    Attributes
    ----------
    name, version : str
        Of the port.
    arithmetic : {"float64", "twofold", "float32"}
        W, in which it carries sums and statistics of x of 32 and 16 bits.
    flushes : bool
        Whether it takes subnormal numbers for 0.
    results : dict of str to object
        By case.
    bound : {"strict", "plain"}
        Whether it keeps the specification's bound, or the wider one of a mean in one number.
    evaluation : Evaluation
        E, in which it evaluates y and dx; W where nothing is said.
    """

    name: str
    version: str
    arithmetic: Literal["float64", "twofold", "float32"]
    flushes: bool
    results: dict[str, Any]
    bound: Literal["strict", "plain"] = "strict"
    evaluation: Evaluation = dataclasses.field(default_factory=dict)


def undeclarable(given: Mapping[str, Any]) -> str | None:
    """Return the fault of a declaration: a field, its value and the expected one; None if there is none."""
    for field, (allowed, default) in _DECLARED.items():
        value = given.get(field, default)
        if type(value) is not type(default) or value not in allowed:
            known = " or ".join(map(json.dumps, allowed))
            return f"{field} {_short(value)}; expected {known}."
    try:
        checked_evaluation(given.get("evaluation", {}))
    except ValueError as error:
        return f"evaluation {_short(given['evaluation'])}; expected an object with {error}."
    return None


def read_vectors(folder: Path) -> Vectors:
    """Read an export, and make sure that nobody changed it.

    Raises
    ------
    BadFile
        For a file that is missing, has changed, or is none of `FORMAT`.
    """
    index = _read(folder / "index.json")
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise BadFile(f"{folder / 'index.json'} has format {_short(found)}; expected {FORMAT!r}. Export it anew.")
    cases: dict[str, dict[str, Any]] = {}
    for name, digest in _listed(folder / "index.json", index):
        path = folder / name
        data = _bytes(path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BadFile(f"{path} is not what was exported; expected SHA-256 {digest}. Export it anew.")
        cases |= {case["id"]: case for case in _parsed(path, data)["cases"]}
    return Vectors(index, cases)


def _listed(path: Path, index: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the files that an index lists, beside it, each with its SHA-256."""
    head = {"bnspec": str, "seed": int, "spec": dict, "cases": int, "files": list}
    for key, kind in head.items():
        if type(index.get(key)) is not kind:
            raise BadFile(f"{path} has {key} {_short(index.get(key))}; expected what was exported. Export it anew.")
    for entry in index["files"]:
        name, digest = (entry.get(key) for key in ("file", "sha256")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(digest, str) or Path(name).name != name:
            raise BadFile(f"{path} lists {_short(entry)}; expected a file beside it. Export it anew.")
        yield name, digest


def read_results(path: Path) -> Results:
    """Read a results file, or all ``*.json`` of a folder as one.

    Raises
    ------
    BadFile
        For a file that is no JSON, with the position; that lacks something, or says something twice.
    """
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not paths:
        raise BadFile(f"{path} has no *.json in it; expected results as docs/vectors.md describes them.")
    first = _results(paths[0])
    merged: dict[str, Any] = {}
    for each in paths:
        own = _results(each)
        for field in ("name", "version", "arithmetic", "evaluation", "flushes", "bound"):
            mine, its = getattr(own, field), getattr(first, field)
            if mine != its:
                raise BadFile(
                    f"{each} has {field} {_short(mine)} and {paths[0]} {_short(its)}; expected the results of one port."
                )
        twice = sorted(own.results.keys() & merged.keys())
        if twice:
            raise BadFile(f"{each} has {_short(twice[0])} once more; expected each case in one file.")
        merged |= own.results
    return dataclasses.replace(first, results=merged)


def _results(path: Path) -> Results:
    value = _read(path)
    if not isinstance(value, dict):
        raise BadFile(f"{path} is {type(value).__name__}; expected an object with format {RESULTS!r}.")
    if value.get("format") != RESULTS:
        raise BadFile(f"{path} has format {_short(value.get('format'))}; expected {RESULTS!r}.")
    unknown = sorted(set(value) - set(_KNOWN))
    if unknown:
        raise BadFile(f"{path} has {_short(unknown[0])}; expected only {', '.join(_KNOWN)}.")
    for field in ("name", "version"):
        if not isinstance(value.get(field), str):
            raise BadFile(f"{path} has {field} {_short(value.get(field))}; expected a text.")
    wrong = undeclarable(value)
    if wrong is not None:
        raise BadFile(f"{path} has {wrong}")
    if not isinstance(value.get("results"), dict):
        raise BadFile(f"{path} has results that are {type(value.get('results')).__name__}; expected an object by case.")
    arithmetic, bound, flushes = (value.get(field, default) for field, (_, default) in _DECLARED.items())
    head = (value["name"], value["version"], arithmetic, flushes, value["results"])
    return Results(*head, bound, checked_evaluation(value.get("evaluation", {})))


def _read(path: Path) -> Any:
    return _parsed(path, _bytes(path))


def _bytes(path: Path) -> bytes:
    try:
        if stat.S_ISCHR(path.stat().st_mode):  # some of them never end
            raise BadFile(f"{path} is a device; expected a file.")
        return path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # a path that no system has
        raise BadFile(f"{path!r} cannot be read: {error}.") from error


def _parsed(path: Path, data: bytes) -> Any:
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=lambda pairs: _once(path, pairs))
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not UTF-8 at byte {error.start}.") from error
    except json.JSONDecodeError as error:
        raise BadFile(f"{path} is no JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise BadFile(f"{path} has a number that is out of all range: {error}.") from error
    except RecursionError as error:
        raise _deep(path) from error
    level = [found]
    for _ in range(_DEEPEST):
        level = (
            [
                inner
                for outer in level
                for inner in (outer.values() if isinstance(outer, dict) else outer)
                if isinstance(inner, dict | list)
            ]
            if isinstance(found, dict | list)
            else []
        )
        if not level:
            return found
    raise _deep(path)


def _deep(path: Path) -> BadFile:
    return BadFile(f"{path} is nested too deeply to be a results file.")


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; JSON would take the last of two entries of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadFile(f"{path} has two entries {_short(twice)} in one object; expected one.")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
