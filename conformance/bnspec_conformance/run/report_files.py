"""Report files of a run, kept up to date while it goes on, so that a later crash loses no result."""

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnspec_conformance import report
from bnspec_conformance.subjects import is_ours
from bnspec_conformance.trials.record import Record

__all__ = ["ReportFiles"]


class ReportFiles:
    """Reports, and the folder of failures.

    Parameters
    ----------
    option : callable
        pytest's options by name.
    document : callable
        Makes the report of what has been found so far.
    """

    def __init__(self, option: Callable[[str], Any], document: Callable[[], Mapping[str, Any]]) -> None:
        folder = option("--bnspec-failures")
        self._folder = None if folder is None else Path(folder)
        self._paths = {kind: option(f"--bnspec-{kind}") for kind in ("json", "junit", "html", "statement", "badge")}
        self._document = document
        self._first: Mapping[str, Any] = {}
        self.live = report.Live(self._paths["json"], self._folder, self._head)
        self._final: dict[str, report.Write] = {
            "json": report.write_json,
            "junit": report.write_junit,
            "html": report.write_html,
            "statement": report.write_statement,
            "badge": report.write_badge,
        }
        writers = self._final | {"json": self.live.write}
        self._outputs = [report.Output(path, writers[kind]) for kind, path in self._paths.items() if path is not None]

    @property
    def wanted(self) -> bool:
        """True if there is anything to write."""
        return bool(self._outputs) or self._folder is not None

    def update(self, record: Record | None = None) -> None:
        """Write what there is, after a check has given its record. Errors are for `finish` to tell."""
        if not self.wanted:
            return
        content = self._first = self._document()
        with contextlib.suppress(OSError):
            if self._folder is not None and record is not None:
                report.write_failures(self._folder, content, [record])
            for output in self._outputs:
                output.update(content)

    def finish(self, content: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
        """Write everything for the last time, and return what to tell of it.

        Raises
        ------
        OSError
            If something cannot be written.
        """
        said = []
        self.live.end(cut=bool(content["interrupted"]))
        for kind, path in self._paths.items():
            if path is not None:
                self._final[kind](path, content)
        if self._folder is not None:
            written = report.write_failures(self._folder, content, records)
            said = [self._replay(path, record, content) for path, record in written]
            if content["interrupted"] and self.live.running is not None:
                said.append(self._replay(self._folder / report.RUNNING, self.live.running, content))
        return said

    def _head(self, subject: str) -> Mapping[str, Any]:
        if not self._first:
            self._first = self._document()
        return report.failure_head(self._first) | {"asked": _asked(subject, self._first)}

    def _replay(self, path: Path, record: Record, content: Mapping[str, Any]) -> str:
        """Return the command that runs a failure again; it names a user's own subject, as a file alone starts none."""
        words, asked = ["bnspec-conformance", "replay", str(path)], _asked(record.subject, content)
        return shlex.join([*words, *([] if is_ours(asked) else ["--subject", asked])])


def _asked(subject: str, content: Mapping[str, Any]) -> str:
    """Return the name by which the subject was asked for."""
    return next((str(s["asked"]) for s in content["subjects"] if s["name"] == subject), subject)
