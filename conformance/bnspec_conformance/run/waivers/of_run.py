"""Waivers in the course of a run: failures are settled as they come, and what is stale is told at the end."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from bnspec_conformance.run.engine import checks_of
from bnspec_conformance.run.waivers.file import write_changes
from bnspec_conformance.run.waivers.settlement import Waivers
from bnspec_conformance.run.waivers.waiver import Facts, facts_of
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.record import Record

__all__ = ["WaiversOfRun"]


class WaiversOfRun:
    """Waivers with what a run knows of its subjects.

    Parameters
    ----------
    waivers : Waivers
    look : callable
        Runs a check on a subject without some dtypes; None where no dtype is left.
    """

    def __init__(self, waivers: Waivers, look: Callable[[str, Subject, Collection[str]], Record | None]) -> None:
        self._waivers, self._look = waivers, look
        self._facts: dict[str, Facts] = {}

    @property
    def update(self) -> bool:
        """True if the file is to be rewritten."""
        return self._waivers.update

    def settle(self, record: Record, subject: Subject) -> Record:
        """Return the record of a failure with the waivers that cover it."""
        return self._waivers.settle(
            record, self._about(subject), lambda dtypes: self._look(record.check, subject, dtypes)
        )

    def stale(self, records: Sequence[Record], subjects: Iterable[Subject]) -> list[Record]:
        """Return a record for each entry and subject where everything that the entry covers passes."""
        facts = [self._about(subject) for subject in subjects]
        return self._waivers.stale(records, facts, lambda clause: [check.name for check in checks_of(clause)])

    def rewrite(self, records: Sequence[Record], stale: Sequence[Record]) -> str:
        """Rewrite the file to fit what the run found, and return what to tell of it."""
        waivers = self._waivers
        return write_changes(Path(waivers.path), waivers.changes(records, stale), waivers.today)

    def _about(self, subject: Subject) -> Facts:
        if subject.name not in self._facts:
            self._facts[subject.name] = facts_of(subject)
        return self._facts[subject.name]
