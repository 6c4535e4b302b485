"""Facts of the page: what the runs of all rows have in common, and where they differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnspec_conformance.matrix.page.column import Column

__all__ = ["facts", "notes", "versions"]

#: More values than this are counted instead of told; the table of runs has them all.
_FEW = 2

_FACTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "Specification": lambda run: str(run.get("specification", "unknown")),
    "bnspec": lambda run: str(run["bnspec"]),
    "Machine": lambda run: f"{run['platform'].split('-')[0]}, {run['machine']}",
    "Device": lambda run: str(run["device"]),
    "Python": lambda run: str(run["python"]),
    "Seed": lambda run: str(run["seed"]),
    "Cases per check": lambda run: str(run["max_examples"] or "each subject’s own"),
    "Large cases": lambda run: str(run.get("sizes", "none")),
}


def facts(columns: Sequence[Column]) -> dict[str, str]:
    """Return the facts by their titles; of one that differs from row to row, the values or their number.

    Parameters
    ----------
    columns : sequence of Column
    """
    found = {title: list(dict.fromkeys(map(fact, _runs(columns)))) for title, fact in _FACTS.items()}
    days = sorted(_runs(columns), key=lambda run: str(run["date"]))
    told = {title: _told(values) for title, values in found.items() if values}
    if days:
        first, last = days[0]["date"][:10], days[-1]["date"][:10]
        told["Date"] = first if first == last else f"{first} to {last}"
    return told


def versions(columns: Sequence[Column]) -> dict[str, str]:
    """Return the versions of packages that the rows were run with, several of one where the rows differ.

    Parameters
    ----------
    columns : sequence of Column
    """
    found: dict[str, list[str]] = {}
    for run in _runs(columns):
        for package, version in run["versions"].items():
            found.setdefault(package, []).append(version)
    return {package: ", ".join(dict.fromkeys(found[package])) for package in sorted(found)}


def notes(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return what is wrong with the rows as a whole, such as a waiver that is stale, each with the rows that it is of.

    Parameters
    ----------
    columns : sequence of Column
    """
    found: dict[str, list[Column]] = {}
    for column in columns:
        cut = ["the run did not come to its end"] if column.report.get("interrupted") else []
        for note in [*cut, *column.report.get("notes", ()), *([column.problem] if column.problem else [])]:
            found.setdefault(note, []).append(column)
    return found


def _runs(columns: Sequence[Column]) -> list[Mapping[str, Any]]:
    return [column.report for column in columns]


def _told(values: Sequence[str]) -> str:
    return ", ".join(values) if len(values) <= _FEW else f"{len(values)} different ones"
