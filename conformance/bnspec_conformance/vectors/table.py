"""Prints a verdict: a line for each clause, then the first failures."""

import sys
from typing import Any

from bnspec._printable import printable
from bnspec_conformance.bounds.declared import evaluation_texts
from bnspec_conformance.vectors.files import Vectors
from bnspec_conformance.vectors.hex import hexed
from bnspec_conformance.vectors.judge import Judgement
from bnspec_conformance.vectors.verify import ORDER, Verdict

__all__ = ["print_verdict"]

#: Of a line that goes to a file or a pipe.
_WIDTH = 128
_COLORS = {"passed": "green", "failed": "red", "untested": "yellow", "not supported": "dim"}


def print_verdict(verdict: Verdict, vectors: Vectors, most: int = 10) -> None:
    """Print to standard output; `most` failures at most."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    who, index = verdict.results, verdict.index
    console.print(
        printable(f"{who.name} {who.version}, on the vectors of bnspec {index['bnspec']} (seed {index['seed']})"),
        markup=False,
    )
    flushed = ", subnormal numbers taken for 0" if who.flushes else ""
    evaluated = "".join(f", {text}" for text in evaluation_texts(who.evaluation))
    judged = f"judged by the {verdict.bound} bound for {verdict.arithmetic} arithmetic{evaluated}{flushed}"
    console.print(judged, markup=False)
    table = Table(box=None, pad_edge=False)
    for head, justify in (("clause", "left"), ("verdict", "left"), ("failed", "right"), ("passed", "right"),
                          ("untested", "right"), ("not supp.", "right"), ("worst ulp", "right"), ("bound", "right"),
                          ("at", "left")):  # fmt: skip
        side: Any = justify
        table.add_column(head, justify=side, no_wrap=head != "at")
    for name, own in verdict.clauses.items():
        counts = [str(own.cases[outcome] or "") for outcome in ORDER]
        worst = own.worst
        numbers = ["", "", ""] if worst is None else [_ulp(worst.error_ulp), _ulp(worst.bound_ulp), worst.case]
        color = _COLORS[own.outcome]
        table.add_row(name, f"[{color}]{own.outcome}[/{color}]", *counts, *numbers)
    console.print(table)
    for failure in verdict.failures[:most]:
        why = vectors.cases[failure.case]["why"] if failure.case in vectors.cases else ""
        console.print("\n" + "\n".join(map(printable, _lines(failure, why))), markup=False)
    left = len(verdict.failures) - most
    if left > 0:
        console.print(
            f"\n... and {left} more failures; --failures N shows more, --json FILE has all of them.", markup=False
        )
    total = ", ".join(f"{verdict.count(outcome)} {outcome}" for outcome in ORDER)
    console.print(f"\n{len(verdict.cases)} cases: {total}", markup=False)
    if not verdict.passed and not verdict.failures:
        console.print("Nothing was looked at, so nothing has passed.", markup=False)


def _lines(failure: Judgement, why: str) -> list[str]:
    """Return a failure in full."""
    clauses = " ".join(failure.clauses) or "-"
    found = [f"FAILED {failure.case}  {failure.what}  [{clauses}]", f"  {failure.text}"]
    if failure.index is not None:
        found += [
            f"  worst at  {failure.index}",
            f"  got       {failure.got!r} ({hexed(failure.got)})",
            f"  expected  {failure.expected!r} ({hexed(failure.expected)})",
            f"  error     {failure.error_ulp:.4g} ulp, bound {failure.bound_ulp:.4g} ulp ({hexed(failure.bound)})",
        ]
    return [*found, f"  catches   {why}"] if why else found


def _ulp(value: float) -> str:
    return f"{value:.3g}"
