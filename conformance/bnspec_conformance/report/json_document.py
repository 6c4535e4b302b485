"""The report as one JSON object: making it, writing it, and reading it back with a check against its schema."""

import dataclasses
import datetime
import functools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from bnspec._clauses import LEVELS, specification_version
from bnspec_conformance.bounds.declared import checked_evaluation
from bnspec_conformance.cases.inputs.sizes import Choice
from bnspec_conformance.cases.scope import PROFILES, Scope
from bnspec_conformance.report.facts import device, machine_facts, versions
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.report.summary import by_clause
from bnspec_conformance.subjects import Subject, version_of
from bnspec_conformance.trials.record import Record

__all__ = ["FORMAT", "BadReport", "document", "plain", "read_json", "read_report", "record_from_json", "write_json"]

#: Raised by one when a reader of the old format would be misled.
FORMAT = "bnspec-report/1"

#: How JSON, which has no such numbers, writes them.
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class BadReport(ValueError):
    """A file is no report; the text says where and what was expected."""


def document(
    records: Sequence[Record],
    subjects: Mapping[str, Subject],
    *,
    seed: int,
    max_examples: int | None,
    sizes: Choice = "default",
    seconds: float,
    command: str,
    lacking: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
    interrupted: bool = False,
    running: Record | None = None,
    asked: Collection[str] | None = None,
    level: str = LEVELS[-1],
    partial: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything a run found, as a JSON value in the form of ``schemas/report.schema.json``.

    Parameters
    ----------
    records : sequence of Record
    subjects : mapping of str to Subject
        By the names they were asked by.
    seed : int
    max_examples : int or None
        Cases per check; None is each subject's own number.
    sizes : {"none", "default", "large"}
        How many of the large cases were asked for.
    seconds : float
        Of the whole run.
    command : str
        The command that runs the same again.
    lacking : mapping, optional
        As `by_clause` takes it.
    notes : sequence of str
        Faults of the run as a whole, such as a waiver that is stale.
    interrupted : bool
        Whether the run has not come to its end, or not yet.
    running : Record, optional
        The check that was running when the run was cut, in the form of a failure.
    asked : collection of str, optional
        The clauses that were asked for, by default all. A check often speaks of others too: these have a row only
        where one was not simply passed or left.
    level : str
        The highest level at which a failure fails the run.
    partial : sequence of str
        Options by which the run leaves out a part of the suite.
    """
    facts = machine_facts()
    content = {
        "format": FORMAT,
        "bnspec": versions()["bnspec"],
        "specification": specification_version(),
        **facts,
        "device": device(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "seed": seed,
        "max_examples": max_examples,
        "level": level,
        "sizes": sizes,
        "seconds": round(seconds, 3),
        "interrupted": interrupted,
        "partial": list(partial),
        "notes": list(notes),
        "subjects": [_subject(asked, s) for asked, s in subjects.items()],
        "clauses": {c: row for c, row in by_clause(records, lacking).items() if _has_a_row(c, row, asked)},
        "checks": [record.to_json() for record in records],
        "running": None if running is None else running.to_json(),
    }
    made: dict[str, Any] = plain(content)
    return made


def _has_a_row(clause: str, row: Mapping[str, Any], asked: Collection[str] | None) -> bool:
    verdicts = {mine["verdict"] for mine in row["subjects"].values()}
    return bool(
        verdicts
        if asked is None or clause in asked
        else verdicts - {"passed", "passed in part", "untested", "not supported"}
    )


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON value that has no numbers other than finite ones."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a report.

    Raises
    ------
    BadReport
        For a file that cannot be read, is no JSON, or is not in the form of the schema.
    """
    return read_json(path, "report")


def read_json(path: str | Path, schema: str) -> dict[str, Any]:
    """Read a JSON file and check it against ``schemas/<schema>.schema.json``.

    Raises
    ------
    BadReport
        If it cannot be read, is no JSON, or is not in that form.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise BadReport(f"{path} is no JSON file that can be read: {error}") from None
    from jsonschema.exceptions import best_match

    try:
        found = best_match(_validator(schema).iter_errors(content))
    except RecursionError:
        raise BadReport(f"{path} is no {schema} of bnspec-conformance: it is nested too deeply") from None
    if found is not None:
        where = "/".join(map(str, found.absolute_path)) or "the file"
        text = found.message if len(found.message) <= 200 else found.message[:197] + "..."
        raise BadReport(f"{path} is no {schema} of bnspec-conformance: {where}: {text}")
    made: dict[str, Any] = content
    return made


def record_from_json(value: Mapping[str, Any]) -> Record:
    """Return a record of a report, its numbers that are not finite among them."""
    known = {field.name for field in dataclasses.fields(Record)}
    made = {k: _numbers(v) for k, v in value.items() if k in known}
    return Record.from_json(made)


def plain(value: Any) -> Any:
    """Return the value with only what JSON has: lists, texts for numbers that are not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value)


def _numbers(value: Any) -> Any:
    """Undo what `plain` does to numbers, in the fields that hold some."""
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, dict):
        number = ("share", "error_ulp", "bound_ulp", "error", "bound", "got", "expected")
        return {k: _NOT_FINITE.get(v, v) if k in number and isinstance(v, str) else v for k, v in value.items()}
    return value


def _subject(asked: str, subject: Subject) -> dict[str, Any]:
    scope = subject.scope
    return {
        "name": subject.name,
        "asked": asked,
        "version": version_of(subject),
        "profiles": [name for name in PROFILES if name in scope.profiles],
        "dtypes": list(scope.dtypes),
        "arithmetic": subject.arithmetic,
        "evaluation": checked_evaluation(subject.evaluation),
        "bound": subject.bound,
        "dialect": subject.dialect,
        "examples": subject.examples,
        "scope": _scope(scope),
    }


def _scope(scope: Scope) -> dict[str, Any]:
    """Return what a subject declares of itself, profiles and dtypes apart, which have entries of their own."""
    declared = {field.name: getattr(scope, field.name) for field in dataclasses.fields(scope)}
    return {name: value for name, value in declared.items() if name not in ("profiles", "dtypes")}


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


@functools.cache
def _validator(schema: str) -> Any:
    import jsonschema
    from referencing import Registry, Resource

    folder = files("bnspec_conformance").joinpath("schemas")
    loaded = {n: json.loads(folder.joinpath(f"{n}.schema.json").read_text("utf-8")) for n in ("report", "failure")}
    registry: Any = Registry().with_resources([(s["$id"], Resource.from_contents(s)) for s in loaded.values()])
    return jsonschema.Draft202012Validator(loaded[schema], registry=registry)
