"""Checks as pytest's items: their clauses, their subject, and the record of what pytest saw of them."""

import dataclasses
from typing import Any

import pytest

from bnspec_conformance.trials.record import Record

__all__ = ["check_and_subject", "clauses_of", "matches", "record_of"]


def matches(wanted: str, clause: str) -> bool:
    """Return whether a clause id, or the family it begins with, was meant."""
    return clause == wanted or clause.startswith(wanted.rstrip("-") + "-")


def check_and_subject(item: pytest.Item) -> tuple[str, str]:
    """Return the check and the subject of a test."""
    function, subject = getattr(item, "function", None), getattr(item, "callspec", None)
    return str(getattr(function, "check", "")), str(getattr(subject and subject.params.get("subject"), "name", ""))


def clauses_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the clauses that a test names; none for a test that is no check."""
    return tuple(getattr(getattr(item, "function", None), "clauses", ()))


def record_of(item: pytest.Item, call: pytest.CallInfo[None], result: Any) -> Record:
    """Return the record of a check; where it or its setup broke, a record of all that pytest knows."""
    found: list[Any] = [value for key, value in item.user_properties if key == "bnspec"]
    if found and call.when == "call":
        return Record.from_json(found[-1])
    function: Any = getattr(item, "function", None)
    subject = str(getattr(getattr(item, "funcargs", {}).get("subject"), "name", "") or item.name)
    ids = clauses_of(item)
    record = Record(function.check, ids, subject, "failed", call.duration)
    if result.outcome == "skipped":
        return dataclasses.replace(record, outcome="not supported", reason=str(result.longrepr[2]))
    error = None if call.excinfo is None else call.excinfo.value
    problem = f"the check broke: {type(error).__name__}: {error}"
    violation = {"clauses": list(ids), "subject": subject, "problem": problem, "case": None}
    booked = {clause: {"outcome": "failed", "reason": problem} for clause in ids}
    return dataclasses.replace(record, reason=str(result.longrepr), violation=violation, booked=booked)
