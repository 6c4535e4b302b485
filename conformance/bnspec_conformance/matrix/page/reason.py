"""Reasons of the page: why a clause has the verdict that it has, for subjects that share the reason together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnspec_conformance.matrix.page.column import Column
from bnspec_conformance.trials.record import level_of, outcome_of, reason_of

__all__ = ["Counterexample", "Reason", "reasons"]

#: Outcomes of a check that are told with their counterexample.
_FAILURES = ("failed", "stale", "waived")

_ORDER = ("failed", "stale", "waived", "untested", "passed in part", "passed", "not supported")


@dataclass(frozen=True)
class Counterexample:
    """Violation of a clause by one subject, in one check.

    Attributes
    ----------
    column : Column
    check : str
    problem : str
    violation : mapping
        As the report has it; empty where there is none, as for a waiver that is stale.
    elsewhere : str
        The clause under which it is told in full; empty where that is this one.
    """

    column: Column
    check: str
    problem: str
    violation: Mapping[str, Any]
    elsewhere: str


@dataclass
class Reason:
    """One reason, and the subjects that it holds for.

    Attributes
    ----------
    outcome : str
        "failed", "stale", "waived", "untested", "passed in part", "passed" or "not supported".
    level : str
        At which the clause fails; empty for what is no failure.
    text : str
    link : str
        As the waiver has it, or empty.
    columns : list of Column
    remarks : list of (Column, str)
        Remarks on one subject alone.
    examples : list of Counterexample
    """

    outcome: str
    level: str
    text: str
    link: str
    columns: list[Column] = field(default_factory=list)
    remarks: list[tuple[Column, str]] = field(default_factory=list)
    examples: list[Counterexample] = field(default_factory=list)


def reasons(clause: str, columns: Sequence[Column]) -> list[Reason]:
    """Return the reasons behind the verdicts on a clause, failures first; a subject may have several.

    Parameters
    ----------
    clause : str
    columns : sequence of Column
    """
    found: dict[tuple[str, ...], Reason] = {}

    def add(column: Column, outcome: str, level: str, text: str, link: str = "") -> Reason:
        reason = found.setdefault((outcome, level, text, link), Reason(outcome, level, text, link))
        if column not in reason.columns:
            reason.columns.append(column)
        return reason

    for column in columns:
        entry = column.entry(clause)
        if entry is None:
            continue
        for check in column.checks(clause):
            if (outcome := outcome_of(check, clause)) in _FAILURES:
                level = "" if outcome == "stale" else level_of(check, clause)
                reason = add(column, outcome, level, *_why(check, clause, outcome))
                reason.examples += _counterexamples(column, check, clause)
        if entry["verdict"] == "passed":
            add(column, "passed", "", "").remarks.append((column, _passed(entry)))
        elif entry["verdict"] in ("passed in part", "untested", "not supported"):
            add(column, entry["verdict"], "", "; ".join(entry["reasons"]))
    return sorted(found.values(), key=lambda reason: (_ORDER.index(reason.outcome), reason.level))


def _why(check: Mapping[str, Any], clause: str, outcome: str) -> tuple[str, str]:
    """Return the reason of a failure, and the link of the waiver that gives it."""
    waiver = check["waiver"] or {}
    if outcome == "waived":
        text = reason_of(check, clause) if check.get("booked") else str(waiver.get("reason", ""))
        links = {entry["reason"]: entry.get("link") or "" for entry in [waiver, *waiver.get("applied", ())] if entry}
        return text, links.get(text, "")
    return reason_of(check, clause).split("\n", 1)[0], ""


def _counterexamples(column: Column, check: Mapping[str, Any], clause: str) -> Iterator[Counterexample]:
    violations = [v for v in (check["violation"], *check.get("others", ())) if v]
    for violation in violations:
        cited = violation.get("clauses", [clause])
        if clause in cited:
            elsewhere = "" if cited[0] == clause else cited[0]
            problem = violation.get("problem") or check["reason"].split("\n", 1)[0]
            yield Counterexample(column, check["check"], problem, violation, elsewhere)


def _passed(entry: Mapping[str, Any]) -> str:
    """Return what a pass rests on, such as "3 checks, worst error 0.31 of its bound, in y"."""
    number = int(entry.get("passed", 0))
    said = f"{number} check{'' if number == 1 else 's'}"
    worst = entry["worst"]
    return f"{said}, worst error {float(worst['share']):.2g} of its bound, in {worst['what']}" if worst else said
