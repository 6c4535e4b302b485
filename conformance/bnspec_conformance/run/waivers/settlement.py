"""Waivers of a run: known failures from a file, applied to the records of the checks.

A waiver is strict. A failure that it covers is "waived"; a clause that it covers and that passes is "stale", a failure
like any other, and so is one that has expired. docs/reports.md describes the file.
"""

import dataclasses
import datetime
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnspec_conformance.run.waivers.waiver import Facts, Waiver, generated
from bnspec_conformance.trials.record import Record, level_of, outcome_of, reason_of

__all__ = ["Changes", "Waivers"]


@dataclass
class Waivers:
    """The entries of a file, applied to a run.

    Attributes
    ----------
    path : str
    entries : tuple of Waiver
    today : date
    update : bool
        Whether failures that no entry covers get one.
    """

    path: str
    entries: tuple[Waiver, ...]
    today: datetime.date
    update: bool = False

    def settle(self, record: Record, facts: Facts, again: Callable[[Collection[str]], Record | None]) -> Record:
        """Return the record of a failure with the waivers that cover it.

        Parameters
        ----------
        record : Record
        facts : Facts
        again : callable
            Runs the check without some dtypes, or returns None where there is no other: a waiver for float16 does not
            hide that float32 fails too.
        """
        seconds, current = record.seconds, record
        used: list[Waiver] = []
        reasons: dict[str, str] = {}
        while current.outcome == "failed":
            covering = {clause: self._covering(current, facts, clause) for clause in current.broken}
            known = {c: w for c, w in covering.items() if w is not None and (w.dtype is None or w not in used)}
            fresh = [waiver for waiver in dict.fromkeys(known.values()) if waiver not in used]
            used += fresh
            reasons |= {clause: waiver.reason for clause, waiver in known.items() if clause not in reasons}
            open_ = [clause for clause in covering if clause not in known]
            if open_:  # a clause that no waiver covers fails, whatever becomes of the others
                return self._not_covered(current, facts, seconds, used, reasons, open_)
            by_dtype = any(waiver.dtype is not None for waiver in fresh)
            rest = again([w.dtype for w in used if w.dtype is not None]) if by_dtype else None
            if rest is None:
                break
            current, seconds = rest, seconds + rest.seconds
        if not used:
            return record
        booked = _booked(record, reasons)
        return dataclasses.replace(record, outcome="waived", seconds=seconds, waiver=_applied(used), booked=booked)

    def stale(
        self, records: Sequence[Record], subjects: Iterable[Facts], checks: Callable[[str], Collection[str]]
    ) -> list[Record]:
        """Return one record for each entry and subject where everything that the entry covers passes.

        Parameters
        ----------
        records : sequence of Record
        subjects : iterable of Facts
        checks : callable
            The names of all checks of a clause. A clause of which only some were run is not judged.
        """
        found = []
        for facts in subjects:
            ran = {r.check: r for r in records if r.subject == facts.subject}
            for waiver in self.entries:
                wanted = [waiver.check] if waiver.check is not None else sorted(checks(str(waiver.clause)))
                if not waiver.is_about(facts) or not all(name in ran for name in wanted):
                    continue
                if _seen(waiver, records, ran, wanted, facts) - {"not supported", "untested"} != {"passed"}:
                    continue
                clauses = (waiver.clause,) if waiver.clause is not None else ran[wanted[0]].clauses
                text = f"waived by {waiver.where} of {self.path}, but it passes; remove the entry"
                check = f"{self.path}::entry {waiver.entry}"
                found.append(
                    Record(check, clauses, facts.subject, "stale", 0.0, reason=text, waiver=_applied([waiver]))
                )
        return found

    def changes(self, records: Sequence[Record], stale: Sequence[Record]) -> "Changes":
        """Return the changes that an update makes to the file, after a run with `update`.

        An entry that is stale for one of the subjects that it means, and needed for another, is replaced by one entry
        for each subject that needs it.
        """
        new, needed = list[Waiver](), dict[int, list[str]]()
        for record in records:
            for value in (record.waiver or {}).get("applied", []):
                if value["entry"]:
                    needed.setdefault(value["entry"], []).append(record.subject)
                else:
                    new.append(generated(record, self.today))
        unneeded = {value["entry"] for record in stale for value in (record.waiver or {})["applied"]}
        for waiver in self.entries:
            if waiver.entry in unneeded:
                subjects = sorted(set(needed.get(waiver.entry, [])))
                new += [dataclasses.replace(waiver, entry=0, subject=subject) for subject in subjects]
        drop = [w for w in self.entries if w.entry in unneeded]
        renew = [w for w in self.entries if w.entry in needed and w not in drop and w.has_expired(self.today)]
        return Changes(drop, renew, new)

    def _covering(self, record: Record, facts: Facts, clause: str) -> Waiver | None:
        """Return the entry that covers a failure of a clause; with `update`, one that has expired does too."""
        for waiver in self.entries:
            if waiver.covers(record, facts, clause) and (self.update or not waiver.has_expired(self.today)):
                return waiver
        return None

    def _not_covered(
        self,
        record: Record,
        facts: Facts,
        seconds: float,
        used: Sequence[Waiver],
        reasons: Mapping[str, str],
        open_: Collection[str],
    ) -> Record:
        """Return the record of a check of which some clauses are not covered; those that are count as waived."""
        record = dataclasses.replace(record, seconds=seconds)
        known = {clause: reason for clause, reason in reasons.items() if clause not in open_}
        if self.update:
            own = generated(record, self.today)
            booked = _booked(record, known | dict.fromkeys(open_, own.reason))
            return dataclasses.replace(record, outcome="waived", waiver=_applied([own, *used]), booked=booked)
        record = dataclasses.replace(record, booked=_booked(record, known)) if known else record
        covering = (w for c in open_ for w in self.entries if w.covers(record, facts, c))
        expired = next((w for w in covering if w.has_expired(self.today)), None)
        if expired is None:
            return dataclasses.replace(record, waiver=_applied(used)) if known else record
        text = f"\n  its waiver, {expired.where} of {self.path}, expired on {expired.expires}: {expired.reason}"
        return dataclasses.replace(record, reason=record.reason + text, waiver=_applied([expired]))


@dataclass(frozen=True)
class Changes:
    """Changes to a file of waivers."""

    drop: list[Waiver]
    renew: list[Waiver]
    new: list[Waiver]


def _booked(record: Record, reasons: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the outcome and reason of each clause where some are waived."""
    found = {}
    for clause in record.clauses:
        outcome = "waived" if clause in reasons else outcome_of(record, clause)
        found[clause] = {"outcome": outcome, "reason": reasons.get(clause, reason_of(record, clause))}
        if outcome in ("failed", "waived"):
            found[clause]["level"] = level_of(record, clause)
    return found


def _seen(
    waiver: Waiver, records: Sequence[Record], ran: Mapping[str, Record], wanted: Collection[str], facts: Facts
) -> set[str]:
    """Return every outcome of what a waiver covers, on the way of other checks too."""
    if waiver.clause is None:
        return {ran[name].outcome for name in wanted}
    mine = [r for r in records if r.subject == facts.subject and waiver.clause in r.clauses]
    return {outcome_of(r, waiver.clause) for r in mine}


def _applied(used: Sequence[Waiver]) -> dict[str, Any]:
    """Return the entry of a record for its waivers: the first in full, and all of them."""
    return used[0].to_json() | {"applied": [w.to_json() for w in used]}
