"""Verdict on a run as a whole: what ended it early, stale waivers, what it never met, failures that are new."""

from collections.abc import Callable, Collection
from typing import Any

from bnspec_conformance.cases.levels import within
from bnspec_conformance.run.chosen.expected import Expected
from bnspec_conformance.run.chosen.selection import Selection
from bnspec_conformance.run.completeness import never_met, problems
from bnspec_conformance.run.waivers.of_run import WaiversOfRun
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.record import Record, level_of, outcome_of

__all__ = ["Verdict"]


class Verdict:
    """Judge of a run, beside the records of its checks.

    Parameters
    ----------
    option : callable
        Name of a command line option to its value.
    subjects : collection of Subject
        All that can be had.
    waivers : WaiversOfRun or None
    selection : Selection
    expected : Expected or None
        Failures that do not fail the run.

    Attributes
    ----------
    cut : str or None
        Reason why the run ended before its time.
    notes : list of str
        Faults of the run as a whole.
    said : list of str
        News that are no faults.
    """

    def __init__(
        self,
        option: Callable[[str], Any],
        subjects: Collection[Subject],
        waivers: WaiversOfRun | None,
        selection: Selection,
        expected: Expected | None,
    ) -> None:
        self.option = option
        self.subjects = subjects
        self.waivers = waivers
        self.selection = selection
        self.expected = expected
        self.cut: str | None = None
        self.notes: list[str] = []
        self.said: list[str] = []

    @property
    def level(self) -> str:
        """The highest level at which a failure fails the run."""
        return str(self.option("--bnspec-level"))

    def counts(self, record: Record) -> bool:
        """Return whether a failure fails the run."""
        wrong = [c for c in record.clauses if outcome_of(record, c) in ("failed", "stale")]
        return any(within(level_of(record, clause), self.level) for clause in wrong)

    def judge(self, records: list[Record], chosen: Collection[tuple[str, str]], running: Record | None) -> bool:
        """Add what is wrong with the run as a whole to the notes; return whether anything is.

        Parameters
        ----------
        records : list of Record
            Of the run; a record of each stale waiver is added.
        chosen : collection of (str, str)
            Check and subject of each that was to run.
        running : Record or None
            The check that was running when the run was cut.
        """
        if self.cut is None:
            judged = (self._waivers(records), self._never_met(records), self._left(records, chosen), self._new(records))
            return any(judged)
        where = "" if running is None else f", in {running.check} on {running.subject}"
        case = None if running is None else (running.violation or {}).get("case")
        self.notes.append(f"not finished: {self.cut}{where}" + (f", at the case {case}" if case else ""))
        return True

    def _waivers(self, records: list[Record]) -> bool:
        """Add a record for what is stale, or rewrite the file; whether anything is stale."""
        if self.waivers is None or self.option("--bnspec-profile"):  # a part of a scope says nothing of the rest
            return False
        stale = self.waivers.stale(records, self.subjects)
        if self.waivers.update:
            if not self.option("--bnspec-silent"):
                self.said.append(self.waivers.rewrite(records, stale))
            return False
        records += stale
        self.notes += [f"stale: {r.subject}: {r.reason}" for r in stale]
        return any(map(self.counts, stale))

    def _new(self, records: list[Record]) -> bool:
        """Say which failures are new and which are gone, where some were expected; whether any is gone."""
        if self.expected is None:
            return False
        new = self.expected.new(records)
        gone = self.expected.vanished(records, whole=not self.selection.partial())
        self.notes += gone
        self.said += new
        if not new and not gone:
            self.said.append(f"the failures are those of {self.expected.path}")
        return bool(gone)

    def _never_met(self, records: list[Record]) -> bool:
        """Say what a run of the whole suite never met although it is in a subject's scope; whether there is any."""
        if not self._is_whole() or self.selection.partial():
            return False
        found = never_met(records, self.subjects)
        self.notes += found
        return bool(found)

    def _left(self, records: list[Record], chosen: Collection[tuple[str, str]]) -> bool:
        """Say what was asked and not looked at; whether there is any."""
        if not self._is_whole():
            return False
        asked = self.selection.asked(set(chosen), [s.name for s in self.subjects])
        found = problems(asked, records, stops=self.selection.stops)
        self.notes += found
        self.cut = next((note for note in found if note.startswith("not finished")), None)
        return bool(found)

    def _is_whole(self) -> bool:
        """Return whether the command runs the suite; pytest itself may have been given some of the files only."""
        return bool(self.option("--bnspec-table"))
