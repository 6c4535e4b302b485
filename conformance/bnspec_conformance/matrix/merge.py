"""Merging of the subjects' reports into one, which keeps what each says of its own run, and the way back."""

from collections.abc import Mapping, Sequence
from typing import Any

from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.cases.inputs.sizes import CHOICES
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.json_document import plain
from bnspec_conformance.report.summary import clause_row

__all__ = ["merged", "rows_of"]

#: Facts of a report that belong to its run, and differ between the rows of a merged one.
_FACTS = (
    "bnspec",
    "specification",
    "python",
    "platform",
    "machine",
    "device",
    "versions",
    "date",
    "command",
    "seed",
    "max_examples",
    "level",
    "sizes",
    "seconds",
    "notes",
    "interrupted",
    "partial",
)


def merged(rows: Sequence[MatrixRow], command: str, seconds: float) -> dict[str, Any]:
    """Return one report of all subjects that ran, in the form of ``schemas/report.schema.json``.

    The merged report counts as cut, or as a part of the suite, if one of the runs does. ``rows`` has the facts of each
    run, the findings of its probe, and the reason of each subject that did not run.
    """
    reports = [row.report for row in rows if row.report is not None]
    if not reports:
        raise ValueError("no subject ran")
    versions: dict[str, str] = {}
    entries: dict[str, dict[str, Any]] = {clause: {} for clause in specification_clauses()}
    for report in reports:
        versions |= report["versions"]
        for clause, row in report["clauses"].items():
            entries.setdefault(clause, {}).update(row["subjects"])
    whole = reports[0] | {
        "versions": dict(sorted(versions.items())),
        "command": command,
        "notes": [note for report in reports for note in report.get("notes", [])],
        "seconds": round(seconds, 3),
        "interrupted": any(report.get("interrupted") for report in reports),
        "partial": list(dict.fromkeys(option for report in reports for option in report.get("partial", []))),
        "sizes": min((report.get("sizes", "none") for report in reports), key=CHOICES.index),
        "subjects": [subject for report in reports for subject in report["subjects"]],
        "clauses": {clause: clause_row(clause, subjects) for clause, subjects in entries.items() if subjects},
        "checks": [check for report in reports for check in report["checks"]],
        "running": None,
        "rows": [_row(row) for row in rows],
    }
    made: dict[str, Any] = plain(whole)
    return made


def rows_of(report: Mapping[str, Any]) -> list[MatrixRow]:
    """Return a row for each subject of a report: of a merged one the rows that it was made of.

    Parameters
    ----------
    report : mapping
        As `merged` or a run makes it. A run has no findings of a probe.
    """
    names = {subject["asked"]: subject["name"] for subject in report["subjects"]}
    told = report.get("rows") or [{"subject": asked, "facts": {}} for asked in names]
    return [
        MatrixRow(
            row["subject"],
            _of_subject(report | row["facts"], names[row["subject"]]) if row["subject"] in names else None,
            list(row.get("findings", [])),
            row.get("reason", ""),
            row.get("seconds", report["seconds"]),
        )
        for row in told
    ]


def _row(row: MatrixRow) -> dict[str, Any]:
    facts = {} if row.report is None else {key: row.report[key] for key in _FACTS if key in row.report}
    return {
        "subject": row.subject,
        "reason": row.reason,
        "seconds": round(row.seconds, 3),
        "findings": row.findings,
        "facts": facts,
    }


def _of_subject(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a report says of one of its subjects."""
    entries = {c: row["subjects"][name] for c, row in report["clauses"].items() if name in row["subjects"]}
    found = {key: value for key, value in report.items() if key != "rows"}
    return found | {
        "subjects": [subject for subject in report["subjects"] if subject["name"] == name],
        "clauses": {clause: clause_row(clause, {name: entry}) for clause, entry in entries.items()},
        "checks": [check for check in report["checks"] if check["subject"] == name],
    }
