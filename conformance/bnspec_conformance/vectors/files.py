"""Reads what `export` wrote and what a port answered; an error says where in which file it is."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bnspec_conformance.vectors.export import FORMAT

__all__ = ["RESULTS", "BadFile", "Results", "Vectors", "read_results", "read_vectors"]

#: The format of a results file.
RESULTS = "bnspec-results/1"

_KNOWN = ("format", "name", "version", "arithmetic", "flushes_subnormals", "results")


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
    """What a port answered.

    Attributes
    ----------
    name, version : str
        Of the port.
    arithmetic : {"float64", "float32"}
        What it computes x of 32 and 16 bits in.
    flushes : bool
        Whether it takes subnormal numbers for 0.
    results : dict of str to object
        By case.
    """

    name: str
    version: str
    arithmetic: Literal["float64", "float32"]
    flushes: bool
    results: dict[str, Any]


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
        raise BadFile(f"{folder / 'index.json'} has format {found!r}; expected {FORMAT!r}. Export it anew.")
    cases: dict[str, dict[str, Any]] = {}
    for entry in index["files"]:
        path = folder / entry["file"]
        data = _bytes(path)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise BadFile(f"{path} is not what was exported; expected SHA-256 {entry['sha256']}. Export it anew.")
        cases |= {case["id"]: case for case in _parsed(path, data)["cases"]}
    return Vectors(index, cases)


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
        for field in ("name", "version", "arithmetic", "flushes"):
            if getattr(own, field) != getattr(first, field):
                raise BadFile(
                    f"{each} has {field} {getattr(own, field)!r} and {paths[0]} {getattr(first, field)!r}; "
                    "expected the results of one port."
                )
        twice = sorted(own.results.keys() & merged.keys())
        if twice:
            raise BadFile(f"{each} has {twice[0]} once more; expected each case in one file.")
        merged |= own.results
    return Results(first.name, first.version, first.arithmetic, first.flushes, merged)


def _results(path: Path) -> Results:
    value = _read(path)
    if not isinstance(value, dict):
        raise BadFile(f"{path} is {type(value).__name__}; expected an object with format {RESULTS!r}.")
    if value.get("format") != RESULTS:
        raise BadFile(f"{path} has format {value.get('format')!r}; expected {RESULTS!r}.")
    unknown = sorted(set(value) - set(_KNOWN))
    if unknown:
        raise BadFile(f"{path} has {unknown[0]!r}; expected only {', '.join(_KNOWN)}.")
    for field in ("name", "version"):
        if not isinstance(value.get(field), str):
            raise BadFile(f"{path} has {field} {value.get(field)!r}; expected a text.")
    arithmetic, flushes = value.get("arithmetic"), value.get("flushes_subnormals", False)
    if arithmetic not in ("float64", "float32"):
        raise BadFile(f"{path} has arithmetic {arithmetic!r}; expected 'float64' or 'float32'.")
    if not isinstance(flushes, bool):
        raise BadFile(f"{path} has flushes_subnormals {flushes!r}; expected true or false.")
    if not isinstance(value.get("results"), dict):
        raise BadFile(f"{path} has results that are {type(value.get('results')).__name__}; expected an object by case.")
    return Results(value["name"], value["version"], arithmetic, flushes, value["results"])


def _read(path: Path) -> Any:
    return _parsed(path, _bytes(path))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}.") from error


def _parsed(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=lambda pairs: _once(path, pairs))
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not UTF-8 at byte {error.start}.") from error
    except json.JSONDecodeError as error:
        raise BadFile(f"{path} is no JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except RecursionError as error:
        raise BadFile(f"{path} is nested too deeply to be a results file.") from error


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON would take the last of two entries of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadFile(f"{path} has two entries {twice!r} in one object; expected one.")
    return found
