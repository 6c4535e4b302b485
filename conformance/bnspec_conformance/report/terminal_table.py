"""The report as a table on the terminal: by clause for one subject, clauses against subjects for several."""

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.cases.levels import LEVELS, level_of_clause, within
from bnspec_conformance.report.by_level import by_level, level_of_entry, levels_line
from bnspec_conformance.report.summary import VERDICTS
from bnspec_conformance.report.unsupported import by_reason, reasons_of

__all__ = ["table"]

_STYLES = {
    "passed": "green",
    "passed in part": "cyan",
    "failed": "bold red",
    "waived": "magenta",
    "not supported": "yellow",
    "untested": "bold yellow",
    "unlooked": "dim",
}
_SHORT = {
    "passed": "ok",
    "passed in part": "in part",
    "failed": "FAILED",
    "not supported": "-",
    "untested": "untested",
    "unlooked": "",
}
_OUTCOMES = ("passed", "failed", "stale", "waived", "untested", "not supported")
_WIDTH = 120


def table(content: Mapping[str, Any], out: TextIO, *, every: bool = False) -> None:
    """Print a report: one line per clause that was looked at, and the sums for each subject, by level and by verdict.

    Clauses that are not supported are counted by their reason below the table.

    Parameters
    ----------
    content : mapping
        The report, as `document` makes it.
    out : text stream
        Where lines may be as wide as the terminal; 120 columns in a pipe.
    every : bool
        Whether clauses that are not supported have lines too.
    """
    console = Console(file=out, width=None if out.isatty() else _WIDTH, highlight=False)
    names = [s["name"] for s in content["subjects"]]
    if len(names) == 1:
        console.print()
        console.print(_one(content["clauses"], names[0], every))
    else:
        left = {} if every else reasons_of(content["clauses"], names)
        rows = {clause: row for clause, row in content["clauses"].items() if clause not in left}
        for part in _parts(names, console.width):
            console.print()
            console.print(_several(rows, part))
        for name in names:
            _reasons(console, content["clauses"], name, every)
    if not every:
        for name in names:
            _unsupported(console, content["clauses"], name, len(names) > 1)
    console.print()
    total = len(specification_clauses())
    for name in names:
        found = [row["subjects"][name]["verdict"] for row in content["clauses"].values() if name in row["subjects"]]
        parts = ", ".join(f"{found.count(v)} {v}" for v in VERDICTS if v in found) or "none"
        head = f"{name}: " if len(names) > 1 else ""
        console.print(f"{head}{levels_line(content['clauses'], name)}{_not_counted(content, name)}", soft_wrap=True)
        end = f", in {content['seconds']:.0f} s" if len(names) == 1 else ""
        console.print(f"{head}{len(found)} of {total} clauses looked at: {parts}{end}", soft_wrap=True)
    if len(names) > 1:
        console.print(f"in {content['seconds']:.0f} s")


def _one(clauses: Mapping[str, Any], name: str, every: bool) -> Table:
    """Everything about one subject; what it does not support only where every clause is asked for."""
    rows = {clause: row["subjects"][name] for clause, row in clauses.items() if name in row["subjects"]}
    rows = {clause: entry for clause, entry in rows.items() if every or entry["verdict"] != "not supported"}
    always = ("passed", "failed", "not supported")
    shown_outcomes = [o for o in _OUTCOMES if o in always or any(entry[o] for entry in rows.values())]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("clause")
    shown.add_column("level")
    for heading in (*shown_outcomes, "worst error/bound", "seconds"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    for clause, entry in rows.items():
        why = _decisive(entry)
        share = float(entry["worst"]["share"]) if entry["worst"] else 0.0
        shown.add_row(
            clause,
            level_of_entry(clause, entry),
            *(str(entry[o] or "") for o in shown_outcomes),
            f"{share:.2f}" if share else "",
            f"{entry['seconds']:.1f}",
            Text(_with_reason(entry["verdict"], "; ".join(why)), style=_STYLES[entry["verdict"]]),
        )
    return shown


def _with_reason(verdict: str, why: str) -> str:
    """Return a verdict and why, where the reason does not say it itself, as in "untested, because ..."."""
    return why if why.startswith(f"{verdict}, ") else f"{verdict}: {why}" if why else verdict


def _decisive(entry: Mapping[str, Any]) -> list[str]:
    """Return the reason of a verdict: of a failure the words of the first, and none for a clause that was left out."""
    if entry["verdict"] == "passed":
        return []
    return list(entry["reasons"][:1] if entry["verdict"] == "failed" else entry["reasons"])


def _several(clauses: Mapping[str, Any], names: list[str]) -> Table:
    """Verdicts only, a column for each subject."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("clause", no_wrap=True)
    shown.add_column("level", no_wrap=True)
    for name in names:
        shown.add_column(name, justify="center", overflow="fold")
    for clause, row in clauses.items():
        found = (row["subjects"].get(name) for name in names)
        shown.add_row(clause, level_of_clause(clause), *(_cell(clause, entry) for entry in found))
    return shown


def _cell(clause: str, entry: Mapping[str, Any] | None) -> Text:
    """Return a verdict, and where something failed at a higher level than the clause's, that level."""
    verdict = "unlooked" if entry is None else str(entry["verdict"])
    said = _SHORT.get(verdict, verdict)
    if entry is not None and level_of_entry(clause, entry) != level_of_clause(clause):
        said += f" {level_of_entry(clause, entry)}"
    return Text(said, style=_STYLES[verdict])


def _not_counted(content: Mapping[str, Any], name: str) -> str:
    """Say that some failures do not count, where the run was asked for lower levels only."""
    limit = content.get("level", LEVELS[-1])
    found = by_level(content["clauses"], name)
    above = sum(counts["failed"] for level, counts in found.items() if not within(level, limit))
    return f"; what failed above {limit} does not fail the run" if above else ""


def _parts(names: list[str], width: int) -> Iterator[list[str]]:
    """As many subjects at a time as find room beside each other."""
    part, used = list[str](), 22
    for name in names:
        needed = max(len(name), 8) + 2
        if part and used + needed > width:
            yield part
            part, used = [], 22
        part.append(name)
        used += needed
    yield part


def _unsupported(console: Console, clauses: Mapping[str, Any], name: str, named: bool) -> None:
    """Print how many clauses a subject does not support, by the reason."""
    reasons = reasons_of(clauses, [name])
    if not reasons:
        return
    number = f"{len(reasons)} clause{'' if len(reasons) == 1 else 's'} not supported"
    head = f"\n{name}: {number}" if named else f"\n{number}"
    console.print(Text(f"{head} (--all lists them):", style=_STYLES["not supported"]), soft_wrap=True)
    for reason, ids in by_reason(reasons).items():
        console.print(Text(f"{len(ids):4}  {reason}"), soft_wrap=True)


def _reasons(console: Console, clauses: Mapping[str, Any], name: str, every: bool) -> None:
    """Print the reasons of clauses that did not pass as a whole, each once with its clauses."""
    shown = ("failed", "waived", "passed in part", "untested", *(["not supported"] if every else []))
    for verdict in shown:
        by_reason: dict[str, list[str]] = {}
        for clause, row in clauses.items():
            entry = row["subjects"].get(name)
            if entry is not None and entry["verdict"] == verdict:
                key = "; ".join(_decisive(entry))
                by_reason.setdefault(key, []).append(clause)
        for reason, ids in by_reason.items():
            text = Text(f"\n{name}: {_with_reason(verdict, reason)}", style=_STYLES[verdict])
            console.print(text, soft_wrap=False)
            console.print("  " + ", ".join(ids))
