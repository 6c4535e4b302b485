"""Cells of the page: the verdict on one clause for one subject, as a sign with a word."""

from dataclasses import dataclass

from bnspec_conformance.cases.levels import level_of_clause
from bnspec_conformance.matrix.page.column import Column
from bnspec_conformance.report.by_level import level_of_entry

__all__ = ["WORDS", "Cell", "cell"]

#: Verdicts of a report, with the words that the page has for them.
WORDS = {
    "passed": "passed",
    "passed in part": "passed in part",
    "waived": "known failure",
    "failed": "failed",
    "untested": "untested",
    "not supported": "not supported",
    "unlooked": "not asked",
}


@dataclass(frozen=True)
class Cell:
    """Verdict on one clause for one subject.

    Attributes
    ----------
    column : Column
    verdict : str
        A key of `WORDS`.
    level : str
        Of a failure that shows only above the level of its clause; else empty.
    anchor : str
        The address of the reason in the page; empty where there is none to tell.
    label : str
        For a pointer that rests on the cell.
    word : str
        The verdict in the words of the page; of a waiver for what passes by now, "stale waiver".
    """

    column: Column
    verdict: str
    level: str
    anchor: str
    label: str
    word: str


def cell(clause: str, column: Column) -> Cell:
    """Return the cell of a clause and a subject.

    Parameters
    ----------
    clause : str
    column : Column
    """
    entry = column.entry(clause)
    if entry is None:
        return Cell(column, "unlooked", "", "", f"{column.name}, {clause}: not asked in this run", WORDS["unlooked"])
    verdict, level = entry["verdict"], level_of_entry(clause, entry)
    failing = verdict in ("failed", "waived")
    at = f" at level {level}" if failing else ""
    above = level if failing and level != level_of_clause(clause) else ""
    stale = verdict == "failed" and not entry["failed"]
    word = "stale waiver" if stale else WORDS[verdict]
    label = f"{column.name}, {clause}: {word}{'' if stale else at}"
    return Cell(column, verdict, above, f"{clause}/{column.anchor}", label, word)
