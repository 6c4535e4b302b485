"""The files of a run under way: whatever ends its process, they hold what was found and name what was running."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from bnspec_conformance.cases.case import Case
from bnspec_conformance.cases.codecs.argument_codec import CannotWrite, argument_to_json
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.report.json_document import plain
from bnspec_conformance.trials.record import Record

__all__ = ["RUNNING", "Live", "Output", "Write"]

#: The file in the folder of failures with the case that is running.
RUNNING = "running.json"

#: A file is written anew after each check if that takes less than this, else as soon as so many times as long has gone.
_CHEAP = 0.05
_SELDOM = 10

Write = Callable[[str | Path, Mapping[str, Any]], Any]


class Output:
    """One file, written as often as its cost allows.

    Parameters
    ----------
    path : str or Path
    write : callable
        Writes a report to it.
    """

    def __init__(self, path: str | Path, write: Write) -> None:
        self.path, self._write = path, write
        self._cost, self._last = 0.0, float("-inf")

    def update(self, content: Mapping[str, Any]) -> None:
        """Write the report, unless that was done not long ago and takes its time."""
        started = time.monotonic()
        if self._cost > _CHEAP and started - self._last < _SELDOM * self._cost:
            return
        self._write(self.path, content)
        self._last = time.monotonic()
        self._cost = self._last - started


class Live:
    """Record of the running check, in memory, at the end of the report and in a file of its own.

    Both are overwritten in place for each argument of a check, which costs microseconds; the rest is written after each
    check, beside and by rename.

    Parameters
    ----------
    report : str, Path or None
        The report as JSON.
    failures : Path or None
        The folder of failures.
    head : callable
        Returns the entries of a failure file besides its record, given the subject's name.
    """

    def __init__(
        self, report: str | Path | None, failures: Path | None, head: Callable[[str], Mapping[str, Any]]
    ) -> None:
        self._report, self._head = report, head
        self._failure = None if failures is None else failures / RUNNING
        self._files: dict[str, IO[bytes]] = {}
        self._tail = 0
        self._check: tuple[str, tuple[str, ...], str] | None = None
        self._drawn: Any = None
        self._case: Case | None = None

    @property
    def running(self) -> Record | None:
        """Return the running check in the form of a failure, so that it can be run again like one."""
        if self._check is None:
            return None
        check, clauses, subject = self._check
        problem = "it was running when the run was cut, and had not come to its end"
        try:
            drawn = None if self._drawn is None else argument_to_json(self._drawn)
        except CannotWrite:
            drawn = None
        violation = {
            "clauses": list(clauses),
            "subject": subject,
            "problem": problem,
            "case": None if self._case is None else self._case.describe(),
            "drawn": drawn,
        }
        return Record(check, clauses, subject, "failed", 0.0, reason=f"{subject}: {problem}", violation=violation)

    def begin(self, check: str, clauses: tuple[str, ...], subject: str) -> None:
        """A check begins."""
        self._check, self._drawn, self._case = (check, clauses, subject), None, None
        self._note()

    def argument(self, value: Any) -> None:
        """Keep the argument that a check begins with."""
        self._drawn = value

    def case(self, case: Case) -> None:
        """Write down the case that a subject is about to be given."""
        self._case = case
        if self._check is not None:
            self._note()

    def done(self) -> None:
        """The check has come to its end."""
        self._check = None
        self._note()

    def end(self, *, cut: bool = False) -> None:
        """Write no more; unless the run was cut, leave no file behind that says what is running."""
        for which in list(self._files):
            self._close(which)
        if self._failure is not None and not (cut and self.running is not None):
            self._failure.unlink(missing_ok=True)

    def write(self, path: str | Path, content: Mapping[str, Any]) -> None:
        """Write the report, with what is running as its last entry, so that this can be overwritten."""
        head = json.dumps({k: v for k, v in content.items() if k != "running"}, allow_nan=False)
        self._tail = len(head) - 1
        write_text(path, head[:-1] + self._entry())
        self._close("report")
        if os.path.isfile(path):
            self._files["report"] = open(path, "r+b", buffering=0)

    def _note(self) -> None:
        with contextlib.suppress(OSError):  # the run goes on; its end says what could not be written
            if "report" in self._files:
                self._overwrite("report", self._tail, self._entry())
            record = None if self._failure is None else self.running
            if self._failure is not None and record is not None:
                if "failure" not in self._files:
                    self._files["failure"] = open(self._failure, "wb", buffering=0)
                value = {**self._head(record.subject), "record": plain(record.to_json())}
                self._overwrite("failure", 0, json.dumps(value, indent=1) + "\n")

    def _entry(self) -> str:
        record = self.running
        value = None if record is None else plain(record.to_json())
        return f', "running": {json.dumps(value)}}}\n'

    def _overwrite(self, which: str, at: int, text: str) -> None:
        file, data = self._files[which], text.encode()
        file.seek(at)
        file.write(data)
        file.truncate(at + len(data))

    def _close(self, which: str) -> None:
        file = self._files.pop(which, None)
        if file is not None:
            file.close()
