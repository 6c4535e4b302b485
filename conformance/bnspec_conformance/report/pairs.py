"""Pairs of subjects whose names differ between two reports, so that they can be compared as one."""

from collections.abc import Mapping, Sequence
from typing import Any

from bnspec_conformance.report.json_document import BadReport

__all__ = ["paired", "unpaired"]

Pairs = Sequence[Sequence[str]]


def paired(old: Mapping[str, Any], new: Mapping[str, Any], pairs: Pairs) -> dict[str, Any]:
    """Return the old report with the names of the new one in the place of its own.

    Parameters
    ----------
    old, new : mapping
        Reports.
    pairs : sequence of (str, str)
        A name in the old report, and the one that it has in the new report.

    Raises
    ------
    BadReport
        If a report does not have a subject of a pair, or if a name would belong to two.
    """
    was, now = _names(old), _names(new)
    names: dict[str, str] = {}
    for first, second in pairs:
        for name, known, which in ((first, was, "old"), (second, now, "new")):
            if name not in known:
                raise BadReport(f"--pair: the {which} report has no subject {name!r}; it has {', '.join(known)}.")
        if first in names or second in names.values():
            raise BadReport(f"--pair: {first if first in names else second!r} is in two pairs; expected one of each.")
        names[first] = second
    taken = [name for name in names.values() if name in was and name not in names]
    if taken:
        raise BadReport(f"--pair: the old report has a subject {taken[0]!r} itself; pair that one too.")
    return {
        **old,
        "subjects": [{**s, "name": names.get(s["name"], s["name"])} for s in old["subjects"]],
        "checks": [{**c, "subject": names.get(c["subject"], c["subject"])} for c in old["checks"]],
        "clauses": {
            clause: {**row, "subjects": {names.get(name, name): entry for name, entry in row["subjects"].items()}}
            for clause, row in old["clauses"].items()
        },
    }


def unpaired(old: Mapping[str, Any], new: Mapping[str, Any], pairs: Pairs) -> list[tuple[str, str]]:
    """Return the pair that may be meant: each report has one subject, under another name, and none was paired."""
    was, now = _names(old), _names(new)
    return [(was[0], now[0])] if len(was) == len(now) == 1 and was != now and not pairs else []


def _names(report: Mapping[str, Any]) -> list[str]:
    return [subject["name"] for subject in report["subjects"]]
