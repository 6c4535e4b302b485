"""Expected failures: those of an earlier report. A run with the same ones has learnt nothing new and passes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bnspec_conformance.report import BadReport, read_report
from bnspec_conformance.trials.record import Record, outcome_of

__all__ = ["Expected", "expected"]

#: A clause that a check of a subject breaks: subject, check, clause.
Failure = tuple[str, str, str]


class Expected:
    """The failures of an earlier report.

    Parameters
    ----------
    path : str or Path
        Of the report, for messages.
    failures : iterable of (subject, check, clause)
    """

    def __init__(self, path: str | Path, failures: Iterable[Failure]) -> None:
        self.path, self._failures = path, tuple(dict.fromkeys(failures))

    def covers(self, record: Record) -> bool:
        """Return whether every clause that a check breaks was broken by it last time too."""
        found = _failures(record)
        return bool(found) and all(failure in self._failures for failure in found)

    def new(self, records: Iterable[Record]) -> list[str]:
        """Return a line for each failure that is not expected."""
        found = [failure for record in records for failure in _failures(record)]
        return [f"new failure: {_words(failure)}" for failure in found if failure not in self._failures]

    def vanished(self, records: Sequence[Record], *, whole: bool) -> list[str]:
        """Return a line for each expected failure that is none any more.

        Parameters
        ----------
        records : sequence of Record
            Of this run.
        whole : bool
            Whether the run asks for the whole suite: a check that it did not run is gone then, and else not judged.
        """
        ran = {(record.subject, record.check) for record in records}
        now = {failure for record in records for failure in _failures(record)}
        lines = []
        for failure in self._failures:
            if failure not in now and (whole or failure[:2] in ran):
                why = "it fails no more" if failure[:2] in ran else "the suite has no such check any more"
                lines.append(f"vanished: {_words(failure)}, expected to fail by {self.path}: {why}")
        return lines


def expected(path: str | Path, subjects: Iterable[str]) -> Expected:
    """Read the failures of some subjects from a report of ``run --json``.

    Raises
    ------
    BadReport
        If the file is no report, is one of a run that was cut, or does not know a subject.
    """
    content = read_report(path)
    if content.get("interrupted"):
        raise BadReport(f"{path} is the report of a run that did not come to its end; its failures are not all.")
    names, known = list(subjects), [subject["name"] for subject in content["subjects"]]
    absent = [name for name in names if name not in known]
    if absent:
        raise BadReport(f"{path} is about {' and '.join(known) or 'no subject'}, and not about {absent[0]}.")
    records = [check for check in content["checks"] if check["outcome"] == "failed" and check["subject"] in names]
    return Expected(
        path,
        [(r["subject"], r["check"], c) for r in records for c in r["clauses"] if outcome_of(r, c) == "failed"],
    )


def _failures(record: Record) -> list[Failure]:
    if record.outcome != "failed":
        return []
    broken = [clause for clause in record.clauses if outcome_of(record, clause) == "failed"]
    return [(record.subject, record.check, clause) for clause in broken]


def _words(failure: Failure) -> str:
    subject, check, clause = failure
    return f"{subject}: {clause} in {check}"
