"""Verdicts of a report by level: how far a subject conforms, in one line."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bnspec_conformance.cases.levels import LEVELS, level_of_clause

__all__ = ["by_level", "level_of_entry", "levels_line"]

#: Verdicts that the line names, with the word for each; all else that was looked at passed.
_NAMED = {"failed": "failed", "waived": "waived", "passed in part": "in part", "untested": "untested"}


def level_of_entry(clause: str, entry: Mapping[str, Any]) -> str:
    """Return the level of a subject's verdict on a clause; reports of older versions have none and get the clause's."""
    return str(entry.get("level") or level_of_clause(clause))


def by_level(clauses: Mapping[str, Any], name: str) -> dict[str, Counter[str]]:
    """Return, by level, how many clauses have each verdict for one subject.

    A clause that fails above its own level counts twice: as one that holds at its own, and as a failure where it fails.

    Parameters
    ----------
    clauses : mapping
        ``clauses`` of a report.
    name : str
        The subject's.
    """
    found = {level: Counter[str]() for level in LEVELS}
    for clause, row in clauses.items():
        entry = row["subjects"].get(name)
        if entry is not None:
            own, level = level_of_clause(clause), level_of_entry(clause, entry)
            found[level][entry["verdict"]] += 1
            if level != own:
                found[own]["passed"] += 1
    return found


def levels_line(clauses: Mapping[str, Any], name: str) -> str:
    """Return the verdicts on one subject by level, such as "A: all, AA: 2 failed, AAA: 6 failed"."""
    return ", ".join(f"{level}: {_words(counts)}" for level, counts in by_level(clauses, name).items())


def _words(counts: Mapping[str, int]) -> str:
    said = [f"{counts[verdict]} {word}" for verdict, word in _NAMED.items() if counts[verdict]]
    return " and ".join(said) or ("all" if counts["passed"] else "none")
