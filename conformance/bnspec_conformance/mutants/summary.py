"""Pages, tables and JSON about the mutants and a selftest of them."""

import dataclasses
import platform
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import bnspec
from bnspec_conformance.mutants import ROWS, Mutant, catalogue
from bnspec_conformance.mutants.killing import Killing
from bnspec_conformance.report.pages.markdown import escaped
from bnspec_conformance.trials.record import Record

__all__ = ["markdown", "show", "to_json"]

_HEAD = """# Mutants

Wrong implementations that `bnspec-conformance selftest` makes out of bnspec itself, one at a time. Each must be found
by a check of the clause that it breaks, with every seed; and bnspec as it is must pass the same checks.
Most override methods of `bnspec.Kernels`, and are made from the compiled kernels too where numba is installed.
`bnspec-conformance selftest --table` writes this page.

| mutant | clause | what is wrong | divergence |
| --- | --- | --- | --- |
"""

_DIVERGENCES = """
## Divergences

On what implementations in the world differ, as far as their batch normalization shows it. The mutants beside each
re-create one side of it.

| | what they differ on | mutants |
| --- | --- | --- |
"""


def markdown() -> str:
    """Return every mutant, and every divergence that some of them re-create, as Markdown."""
    mutants = catalogue().values()
    text = _HEAD
    for mutant in mutants:
        text += f"| `{mutant.name}` | {mutant.clause} | {escaped(mutant.breaks)} | {mutant.row or ''} |\n"
    text += _DIVERGENCES
    for row, about in ROWS.items():
        names = ", ".join(f"`{mutant.name}`" for mutant in mutants if mutant.row == row)
        text += f"| {row} | {escaped(about)} | {names} |\n"
    return text


def show(
    mutants: Sequence[Mutant],
    killings: Sequence[Killing],
    records: Sequence[Record],
    seeds: Sequence[int],
    seconds: float,
) -> bool:
    """Print a line for each mutant, what survived or failed, and the sum; return whether all is well."""
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    table = Table("mutant", "clause", "row", "killed by", "examples", "seconds", box=None, pad_edge=False)
    survivors = 0
    for mutant in mutants:
        every = [k for k in killings if k.mutant == mutant.name]
        mine, alive = [k for k in every if _is_plain(k)], [k for k in every if not k.check]
        survivors += bool(alive)
        by = Text("\n".join(dict.fromkeys(k.check for k in mine)), style="green")
        if alive:
            seeds_alive = ", ".join(dict.fromkeys(str(k.way.seed) for k in alive))
            by = Text(f"SURVIVED seed {seeds_alive}{_how(alive[0])}: {alive[0].reason}", style="bold red")
        examples = ", ".join(str(k.examples) for k in mine if k.check)
        spent = f"{sum(k.seconds for k in mine):.1f}"
        table.add_row(mutant.name, mutant.clause, mutant.row or "", by, examples, spent)
    console.print(table)
    checks, failed = {r.check for r in records}, [r for r in records if r.outcome == "failed"]
    for record in failed:
        console.print(Text(f"\nthe core itself fails {record.check}:\n{record.reason}", style="bold red"))
    killed = "all killed" if not survivors else f"{len(mutants) - survivors} killed, {survivors} SURVIVED"
    itself = f"failed {len({r.check for r in failed})} of" if failed else "passed"
    console.print(
        f"\n{len(mutants)} mutants, seeds {', '.join(map(str, seeds))}: {killed}. The core itself {itself} the "
        f"{len(checks)} checks of their clauses. {seconds:.0f} s"
    )
    shrunk = [f"{k.mutant}{_declining(k)}" for k in killings if k.way.shrink]
    if shrunk:
        console.print(f"With shrinking: {'; '.join(dict.fromkeys(shrunk))}.")
    if compiled := {k.mutant for k in killings if k.way.kernels == "compiled"}:
        console.print(f"Made from the compiled kernels too: {len(compiled)} mutants.")
    return not survivors and not failed


def _is_plain(killing: Killing) -> bool:
    return not killing.way.shrink and killing.way.kernels == "specification"


def _declining(killing: Killing) -> str:
    return f", declining {killing.way.declines} cases" if killing.way.declines else ""


def _how(killing: Killing) -> str:
    """Return the difference of an attempt from a plain one, in words."""
    way = killing.way
    compiled = ", on compiled kernels" if way.kernels == "compiled" else ""
    return compiled + (", with shrinking" if way.shrink else "") + _declining(killing)


def to_json(
    mutants: Sequence[Mutant],
    killings: Sequence[Killing],
    records: Sequence[Record],
    seeds: Sequence[int],
    seconds: float,
) -> dict[str, Any]:
    """The result of a selftest as a JSON value."""
    found = []
    for mutant in mutants:
        mine = [k for k in killings if k.mutant == mutant.name]
        told = {"name": mutant.name, "clause": mutant.clause, "row": mutant.row, "breaks": mutant.breaks}
        others = {
            "attempts": [_attempt(k) for k in mine if _is_plain(k)],
            "compiled": [_attempt(k) for k in mine if k.way.kernels == "compiled"],
            "shrunk": [_attempt(k) for k in mine if k.way.shrink],
        }
        found.append(told | {"killed": all(k.check for k in mine)} | others)
    return {
        "format": "bnspec-selftest/1",
        "bnspec": bnspec.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seeds": list(seeds),
        "seconds": round(seconds, 3),
        "mutants": found,
        "core": [record.to_json() for record in records],
    }


def _attempt(killing: Killing) -> dict[str, Any]:
    told = dataclasses.asdict(killing)
    way = told.pop("way")
    return {"seed": way["seed"], "declines": way["declines"]} | {k: v for k, v in told.items() if k != "mutant"}
