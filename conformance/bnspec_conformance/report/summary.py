"""From records to verdicts: what a run says about each clause and each subject."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.cases.levels import level_of_clause, lowest
from bnspec_conformance.trials.record import OUTCOMES, Record, level_of, outcome_of, reason_of

__all__ = ["VERDICTS", "by_clause", "clause_row", "verdict_of"]

#: From the one that matters most to the one that matters least.
VERDICTS = ("failed", "waived", "passed in part", "passed", "untested", "not supported", "unlooked")


def verdict_of(counts: Mapping[str, int]) -> str:
    """Return the verdict on a clause from the number of its checks with each outcome, or over several subjects."""
    if counts.get("failed") or counts.get("stale"):
        return "failed"
    return next((verdict for verdict in VERDICTS if counts.get(verdict)), "unlooked")


def by_clause(
    records: Sequence[Record], lacking: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Sum up a run by clause and subject.

    Parameters
    ----------
    records : sequence of Record
    lacking : mapping of str to mapping of str to str, optional
        By subject and clause, why a clause is outside the subject's scope although one of its checks was selected.

    Returns
    -------
    dict
        For every clause of SPEC.md, in its order: ``level``, ``verdict``, ``worst`` and ``subjects``; by the name of
        each subject that was asked about it, ``verdict``, ``level``, the number of checks with each of `OUTCOMES`,
        ``reasons``, ``worst`` and ``seconds``. A clause of which something passed and something else could not be asked
        is "passed in part". The first of the reasons is the one of the verdict; the level of a
        failure is the lowest at which a check saw one, else that of the clause.
    """
    outside = {} if lacking is None else lacking
    names: list[str] = list(dict.fromkeys([*(r.subject for r in records), *outside]))
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        for clause in record.clauses:
            found.setdefault((clause, record.subject), []).append(record)
    rows: dict[str, dict[str, Any]] = {}
    for clause in specification_clauses():
        subjects: dict[str, dict[str, Any]] = {}
        for name in names:
            mine, reason = found.get((clause, name), []), outside.get(name, {}).get(clause)
            if mine or reason is not None:
                subjects[name] = _entry(clause, mine, reason)
        rows[clause] = clause_row(clause, subjects)
    return rows


def clause_row(clause: str, subjects: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a report says of a clause, from what it says of each subject.

    Parameters
    ----------
    clause : str
    subjects : mapping of str to mapping
        The entries of `by_clause`, by the subject's name.
    """
    return {
        "level": level_of_clause(clause),
        "verdict": verdict_of({entry["verdict"]: 1 for entry in subjects.values()}),
        "worst": _largest(entry["worst"] for entry in subjects.values()),
        "subjects": dict(subjects),
    }


def _entry(clause: str, records: Sequence[Record], outside: str | None) -> dict[str, Any]:
    """Return one subject's line for one clause; what is outside its scope counts as one check that is not supported."""
    told = [(outcome_of(r, clause), _reason(r, clause)) for r in records]
    if not records and outside:
        told = [("not supported", outside)]
    counts = {outcome: sum(own == outcome for own, _ in told) for outcome in OUTCOMES}
    verdict = verdict_of(counts)
    left = _left_out(records, clause) if verdict == "passed" else []
    if left:
        verdict = "passed in part"
    decisive = ("failed", "stale") if verdict == "failed" else (verdict,)
    first = [reason for own, reason in told if own in decisive and own != "passed"]
    others = [] if left else sorted(reason for own, reason in told if own not in (*decisive, "passed"))
    failures = [r for r in records if verdict in ("failed", "waived") and outcome_of(r, clause) == verdict]
    return {
        "verdict": verdict,
        "level": lowest(level_of(r, clause) for r in failures) if failures else level_of_clause(clause),
        **counts,
        "reasons": list(dict.fromkeys([*left, *(first if verdict == "failed" else sorted(first)), *others])),
        "worst": _largest(dataclasses.asdict(r.worst) for r in records if r.worst is not None),
        "seconds": round(sum(r.seconds for r in records), 4),
    }


def _left_out(records: Sequence[Record], clause: str) -> list[str]:
    """Return why a part of what proves a clause could not be asked of the subject.

    A check of what the subject does not have at all, such as bnspec's own layers, leaves nothing out.
    """
    declined = (r for r in records if outcome_of(r, clause) == "not supported" and not r.foreign)
    found = [
        *(reason for r in records for reason in r.left_out.get(clause, ())),
        *(_reason(r, clause) for r in declined),
    ]
    return list(dict.fromkeys(found))


def _reason(record: Record, clause: str) -> str:
    if outcome_of(record, clause) == "waived" and not record.booked:
        return str((record.waiver or {}).get("reason", ""))
    return reason_of(record, clause)


def _largest(found: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    return max((w for w in found if w is not None), key=lambda w: float(w["share"]), default=None)
