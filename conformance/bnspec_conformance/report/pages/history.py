"""History of reports as one HTML page: for each subject its runs, the newest first, and what changed when, by level."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnspec_conformance.cases.levels import LEVELS, highest, level_of_clause
from bnspec_conformance.report.by_level import by_level, level_of_entry
from bnspec_conformance.report.compare import Change, compare
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.report.json_document import BadReport, read_report
from bnspec_conformance.report.pages.template import part, render
from bnspec_conformance.report.summary import VERDICTS

__all__ = ["Dated", "Point", "histories", "read_history", "write_history"]


@dataclass(frozen=True)
class Dated:
    """A report and the name of its file."""

    file: str
    content: Mapping[str, Any]


@dataclass
class Point:
    """One run of a subject in its history.

    Attributes
    ----------
    file : str
    run : mapping
        The report.
    version : str
        Of the subject.
    levels : dict of str to dict of str to int
        By level, how many clauses have each verdict.
    changes : dict of str to list of Change
        By level, the verdicts that differ from the run before.
    settings : list of Change
        Versions and settings that differ from the run before.
    left_out : list of str
        Why the run shows less than the whole.
    """

    file: str
    run: Mapping[str, Any]
    version: str
    levels: dict[str, dict[str, int]]
    changes: dict[str, list[Change]] = field(default_factory=dict)
    settings: list[Change] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_history(folder: str | Path) -> tuple[list[Dated], list[str]]:
    """Return the reports in a folder by their dates, and a line for each file that is none.

    Parameters
    ----------
    folder : str or Path
        Its files whose names end in ``.json`` are read, folders in it are not.

    Raises
    ------
    BadReport
        If there is no such folder, or no report in it.
    """
    place = Path(folder)
    if not place.is_dir():
        raise BadReport(f"--history {folder} is no folder; expected one with reports of run --json.")
    found, broken = [], list[str]()
    for path in sorted(place.glob("*.json")):
        try:
            found.append(_dated(path))
        except BadReport as error:
            broken.append(str(error))
    if not found:
        why = f" {broken[0]}" if broken else ""
        raise BadReport(f"--history {folder} has no report of run --json.{why}")
    return sorted(found, key=lambda dated: (_moment(dated.content), dated.file)), broken


def histories(reports: Sequence[Dated]) -> dict[str, list[Point]]:
    """Return the runs of each subject, the oldest first, each with what changed since the one before.

    Parameters
    ----------
    reports : sequence of Dated
        In the order of their dates.
    """
    found: dict[str, list[Point]] = {}
    for dated in reports:
        for subject in dated.content["subjects"]:
            points = found.setdefault(subject["name"], [])
            points.append(_point(dated, subject, points[-1] if points else None))
    return found


def write_history(path: str | Path, reports: Sequence[Dated], broken: Sequence[str]) -> None:
    """Write the page.

    Parameters
    ----------
    path : str or Path
    reports : sequence of Dated
        In the order of their dates.
    broken : sequence of str
        A line for each file that is no report.
    """
    page = render(
        "history.html.jinja",
        {"day": _day},
        style=part("report.css"),
        own=part("history.css"),
        histories={name: points[::-1] for name, points in histories(reports).items()},
        broken=broken,
        number=len(reports),
        levels=LEVELS,
        verdicts=[verdict for verdict in VERDICTS if verdict != "unlooked"],
    )
    write_text(path, page)


def _dated(path: Path) -> Dated:
    if not path.is_file():  # a pipe would be waited for
        raise BadReport(f"{path} is no file")
    content = read_report(path)
    try:
        _moment(content)
    except ValueError:
        raise BadReport(f"{path} is no report of bnspec-conformance: date: {content['date']} is no date") from None
    return Dated(path.name, content)


def _point(dated: Dated, subject: Mapping[str, Any], before: Point | None) -> Point:
    name, content = subject["name"], dated.content
    levels = {level: dict(counts) for level, counts in by_level(content["clauses"], name).items()}
    point = Point(dated.file, content, subject["version"], levels, left_out=_left_out(content))
    if before is None:
        return point
    whole = not point.left_out and not before.left_out
    for change in compare(before.run, content):
        if change.kind in ("setting", "version") and change.subject in ("", name):
            point.settings.append(change)
        elif change.kind in ("verdict", "level") and change.subject == name and _is_seen(change, whole):
            level = _level(change.name, name, before.run, content)
            point.changes.setdefault(level, []).append(change)
    return point


def _is_seen(change: Change, whole: bool) -> bool:
    """Return whether a change is one of the subject, and not only of what was asked."""
    return whole or "unlooked" not in (change.old, change.new)


def _level(clause: str, name: str, *reports: Mapping[str, Any]) -> str:
    """Return the level at which a clause changed: that of its failures, where it failed, else its own."""
    entries = (report["clauses"].get(clause, {"subjects": {}})["subjects"].get(name) for report in reports)
    found = [level_of_entry(clause, e) for e in entries if e is not None and e["verdict"] in ("failed", "waived")]
    return found[-1] if found else highest([level_of_clause(clause)])


def _left_out(content: Mapping[str, Any]) -> list[str]:
    cut = ["the run did not come to its end"] if content.get("interrupted") else []
    return [*cut, *(f"a part of the suite, by {option}" for option in content.get("partial", ()))]


def _moment(content: Mapping[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(content["date"])


def _day(content: Mapping[str, Any]) -> str:
    return _moment(content).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
