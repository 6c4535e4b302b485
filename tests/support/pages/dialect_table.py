"""The table of dialects in the appendix of SPEC.md, made from the rows of `bnspec.dialects`."""

from pathlib import Path

import bnspec
from bnspec._dialects import Dialect

__all__ = ["table", "with_table"]

ROOT = Path(__file__).parents[3]
FRAMEWORKS = ROOT / "conformance" / "bnspec_conformance" / "subjects" / "frameworks"
RECORDED = ROOT / "tests" / "vectors" / "data" / "vectors"

HEADINGS = ("dialect", "what was looked at", "momentum is", "decay", "epsilon", "correction", "ranks weigh by",
            "gamma, beta, mean, var are called", "known from")  # fmt: skip


def with_table(old: str) -> str:
    """Return the text with the table in place of the one that it has."""
    start = old.index(f"| {HEADINGS[0]} | {HEADINGS[1]} |")
    return old[:start] + table() + old[old.index("\n\n", start) + 1 :]


def table() -> str:
    """Return the table, with a row for each dialect but bnspec's own."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(_row, bnspec.dialects)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows if cells)


def _row(row: Dialect) -> tuple[str, ...]:
    if row.name == "bnspec":
        return ()
    momentum = "decay" if row.momentum_weighs == "old" else "1 - decay"
    correction = str(row.correction) + (", floor" if row.single_value == "floor" else "")
    return (
        row.name,
        f"`{row.title}`",
        momentum if row.averaging == "exponential" else f"{momentum}; {row.averaging}",
        f"{row.decay:g}",
        f"{row.epsilon:g}",
        f"fused {correction}, else 0" if row.fused_correction else correction,
        row.sync_weighting,
        ", ".join(f"`{row.names[field]}`" for field in ("gamma", "beta", "mean", "var")),
        _known_from(row.name),
    )


def _known_from(name: str) -> str:
    """Say whether a subject of the suite measures a row, or results that were recorded, or nothing."""
    if any(f"{path.stem}_".startswith(f"{name}_") for path in FRAMEWORKS.rglob("*.py")):
        return "measured"
    return "recorded results" if any(RECORDED.glob(f"{name}_*.npz")) else "from documentation"
