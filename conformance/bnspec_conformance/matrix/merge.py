"""Merging of the subjects' reports into one."""

from collections.abc import Sequence
from typing import Any

from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report import by_clause
from bnspec_conformance.report.json_document import plain, record_from_json

__all__ = ["merged"]


def merged(rows: Sequence[MatrixRow], command: str, seconds: float) -> dict[str, Any]:
    """Return one report of all subjects that ran, in the form of ``schemas/report.schema.json``."""
    reports = [row.report for row in rows if row.report is not None]
    if not reports:
        raise ValueError("no subject ran")
    records = [record_from_json(check) for report in reports for check in report["checks"]]
    lacking: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    for report in reports:
        versions |= report["versions"]
        for clause, entry in report["clauses"].items():
            for name, mine in entry["subjects"].items():
                if mine["verdict"] == "not supported" and mine["reasons"]:
                    lacking.setdefault(name, {})[clause] = mine["reasons"][0]
    whole = reports[0] | {
        "versions": dict(sorted(versions.items())),
        "command": command,
        "notes": [note for report in reports for note in report.get("notes", [])],
        "seconds": round(seconds, 3),
        "subjects": [subject for report in reports for subject in report["subjects"]],
        "clauses": {c: entry for c, entry in by_clause(records, lacking).items() if entry["subjects"]},
        "checks": [record.to_json() for record in records],
    }
    made: dict[str, Any] = plain(whole)
    return made
