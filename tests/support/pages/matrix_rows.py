"""Rows of the matrix for tests of its page: subjects under any name, with the verdicts that a test asks for."""

from typing import Any

from bnspec_conformance import find_subject
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report import document
from bnspec_conformance.trials.record import Record

__all__ = ["NUMBERS", "finding", "record", "row"]

#: A number that is off.
NUMBERS: dict[str, Any] = {"what": "y", "rank": 0, "index": [0, 3], "got": 1.0009765625, "expected": 1.0}
NUMBERS |= {"error": 2.0**-10, "bound": 2.0**-20, "error_ulp": 8192.0, "bound_ulp": 8.0}
NUMBERS |= {"case": "float32(2,3) axis=1", "script": "run()"}


def record(name: str, clause: str, outcome: str, **more: Any) -> Record:
    """A check of one clause; a failure has numbers, and a waiver its reason and link."""
    if outcome in ("failed", "waived"):
        more = {"violation": {"clauses": [clause], "subject": name, "problem": "y is off", **NUMBERS}} | more
    if outcome in ("waived", "stale"):
        entry = {"entry": 1, "reason": "it is known", "link": "findings/a.md"}
        more = {"waiver": entry | {"applied": [entry]}} | more
    return Record(f"test_a::test_{clause}", (clause,), name, outcome, 0.1, **({"reason": "because"} | more))


def row(name: str, *records: Record, findings: list[dict[str, Any]] | None = None, **more: Any) -> MatrixRow:
    """A row of these records, of a run of the whole suite that took place now."""
    given: dict[str, Any] = {"seed": 0, "max_examples": None, "seconds": 1.0, "command": "bnspec-conformance run x"}
    content = document(records, {name: find_subject("numpy")}, **(given | more))
    content["subjects"][0] |= {"name": name, "asked": name}
    return MatrixRow(name, content, findings or [], "", 1.0)


def finding(convention: str, measured: str, verdict: str = "same", **more: str) -> dict[str, Any]:
    """One line of a probe."""
    empty = {"declared": "", "source": "", "note": ""}
    return {"group": "running", "convention": convention, "measured": measured, "verdict": verdict} | empty | more
