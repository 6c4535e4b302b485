"""Progress of a run: a bar on a terminal, plain lines in a pipe."""

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from bnspec_conformance.trials.record import Record

__all__ = ["Progress"]


class Progress:
    """A bar on a terminal; one plain line per ten checks, and per failure, in a pipe."""

    def __init__(self, total: int, out: TextIO) -> None:
        self._total, self._done, self._failed, self._out = total, 0, 0, out
        self._bar: RichProgress | None = None
        if out.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            bar = RichProgress(*columns, console=Console(file=out))
            self._task = bar.add_task("checks", total=total)
            bar.start()
            self._bar = bar

    def advance(self, record: Record) -> None:
        """Count one finished check."""
        self._done += 1
        self._failed += record.outcome == "failed"
        if self._bar is not None:
            said = f"{record.clauses[0]}" + (f"  [red]{self._failed} failed[/red]" if self._failed else "")
            self._bar.update(self._task, advance=1, description=said)
        elif record.outcome == "failed":
            where = f"{record.subject}: {record.check} ({', '.join(record.clauses)})"
            self._out.write(f"[{self._done}/{self._total}] failed: {where}\n")
        elif self._done % 10 == 0 or self._done == self._total:
            self._out.write(f"[{self._done}/{self._total}] {self._failed} failed\n")
        self._out.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
