"""A run's result by clause: a progress bar, a table, and JSON."""

import json
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from bnspec._clauses import clauses as specification_clauses

if TYPE_CHECKING:
    from bnspec_conformance.plugin import Record

__all__ = ["Progress", "by_clause", "table", "write_json"]

_STYLES = {"passed": "green", "failed": "bold red", "not supported": "yellow", "untested": "bold red"}


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

    def advance(self, record: "Record") -> None:
        """Count one finished check."""
        self._done += 1
        self._failed += record.outcome == "failed"
        if self._bar is not None:
            said = f"{record.clauses[0]}" + (f"  [red]{self._failed} failed[/red]" if self._failed else "")
            self._bar.update(self._task, advance=1, description=said)
        elif record.outcome == "failed":
            self._out.write(f"[{self._done}/{self._total}] failed: {record.check} ({', '.join(record.clauses)})\n")
        elif self._done % 10 == 0 or self._done == self._total:
            self._out.write(f"[{self._done}/{self._total}] {self._failed} failed\n")
        self._out.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def by_clause(records: "Sequence[Record]") -> dict[str, dict[str, Any]]:
    """Sum up a run: clause id to checks passed, failed, not supported, the reasons, and the verdict.

    A clause is "untested" if no check of it ran at all; it passes if something of it passed and nothing failed.
    """
    rows: dict[str, dict[str, Any]] = {}
    for clause in specification_clauses():
        mine = [r for r in records if clause in r.clauses]
        counts = {o: sum(r.outcome == o for r in mine) for o in ("passed", "failed", "not supported")}
        verdict = next((o for o in ("failed", "passed", "not supported") if counts[o]), "untested")
        rows[clause] = {
            **counts,
            "verdict": verdict,
            "reasons": sorted({r.reason for r in mine if r.outcome == "not supported"}),
            "worst": max((r.worst for r in mine), default=0.0),
            "seconds": sum(r.seconds for r in mine),
        }
    return rows


def table(records: "Sequence[Record]", out: TextIO, seconds: float) -> None:
    """Print one line per clause that was looked at, and the sum."""
    rows = by_clause(records)
    console = Console(file=out, width=None if out.isatty() else 120, highlight=False)
    shown = Table(box=None, pad_edge=False)
    for heading, side in (
        ("clause", "left"),
        ("passed", "right"),
        ("failed", "right"),
        ("not supported", "right"),
        ("worst error/bound", "right"),
        ("seconds", "right"),
        ("", "left"),
    ):
        shown.add_column(heading, justify=side)  # type: ignore[arg-type]
    looked_at = {c: r for c, r in rows.items() if r["verdict"] != "untested"}
    for clause, row in looked_at.items():
        shown.add_row(
            clause,
            *(str(row[o] or "") for o in ("passed", "failed", "not supported")),
            f"{row['worst']:.2f}" if row["worst"] else "",
            f"{row['seconds']:.1f}",
            Text(
                row["verdict"] + (": " + "; ".join(row["reasons"]) if row["verdict"] == "not supported" else ""),
                style=_STYLES[row["verdict"]],
            ),
        )
    console.print()
    console.print(shown)
    verdicts = [row["verdict"] for row in looked_at.values()]
    parts = [f"{verdicts.count(v)} {v}" for v in ("passed", "failed", "not supported") if v in verdicts]
    console.print(
        f"\n{len(looked_at)} of {len(rows)} clauses looked at: {', '.join(parts) or 'none'}, in {seconds:.0f} s"
    )


def write_json(path: str, records: "Sequence[Record]", versions: list[str], seed: int, seconds: float) -> None:
    """Write everything the table has, every check and every violation with its script."""
    import bnspec

    content = {
        "bnspec": bnspec.__version__,
        "subjects": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "seed": seed,
        "seconds": round(seconds, 3),
        "clauses": by_clause(records),
        "checks": [
            {
                "check": r.check,
                "clauses": list(r.clauses),
                "subject": r.subject,
                "outcome": r.outcome,
                "seconds": round(r.seconds, 4),
                "worst": r.worst,
                "reason": r.reason,
                "violation": r.details,
            }
            for r in records
        ],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, default=str)
        file.write("\n")
