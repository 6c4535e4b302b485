"""Columns of the page: one subject each, with what it declares, what holds at each level, and what may be claimed."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bnspec_conformance.bounds.declared import evaluation_texts
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.by_level import by_level
from bnspec_conformance.report.statement import Claim, claim_of
from bnspec_conformance.report.summary import VERDICTS

__all__ = ["Column", "LevelCount", "columns"]

#: Verdicts on what was asked; a clause that is not supported was not.
_ASKED = ("passed", "passed in part", "waived", "failed", "untested")

#: Words behind the number of clauses with a verdict, in a cell of a table.
_WORDS = {
    "failed": "failed",
    "waived": "known",
    "untested": "untested",
    "passed in part": "in part",
    "not supported": "not supported",
}


@dataclass(frozen=True)
class LevelCount:
    """Number of clauses with each verdict, at one level.

    Attributes
    ----------
    level : {"A", "AA", "AAA"}
    counts : dict of str to int
        By verdict, in the order of `VERDICTS`; those without a clause are left out.
    """

    level: str
    counts: Mapping[str, int]

    @property
    def asked(self) -> int:
        """Number of clauses that were asked."""
        return sum(self.counts.get(verdict, 0) for verdict in _ASKED)

    @property
    def held(self) -> int:
        """Number of clauses that were asked and hold, those that were asked in part among them."""
        return self.counts.get("passed", 0) + self.counts.get("passed in part", 0)

    @property
    def words(self) -> str:
        """Everything else than "passed", such as "2 known, 12 not supported"."""
        return ", ".join(f"{self.counts[verdict]} {word}" for verdict, word in _WORDS.items() if verdict in self.counts)


@dataclass(frozen=True)
class Column:
    """One subject that ran.

    Attributes
    ----------
    index : int
        Its place among the columns.
    name : str
    anchor : str
        The name as a part of an address.
    dialect : str
        Empty where it declares none.
    judged : str
        Bound, W and E.
    levels : tuple of LevelCount
    claim : Claim
        Of its own run.
    report : mapping
        Of this subject alone.
    findings : sequence of mapping
        Conventions as `probe` measured them.
    problem : str
        Fault of its row although it has a report, such as a probe that did not end.
    """

    index: int
    name: str
    anchor: str
    version: str
    dialect: str
    profiles: tuple[str, ...]
    dtypes: tuple[str, ...]
    judged: str
    levels: tuple[LevelCount, ...]
    claim: Claim
    report: Mapping[str, Any]
    findings: Sequence[Mapping[str, Any]]
    problem: str

    @property
    def day(self) -> str:
        """Day and time of its run."""
        return datetime.datetime.fromisoformat(self.report["date"]).strftime("%d %B %Y, %H:%M UTC").lstrip("0")

    def entry(self, clause: str) -> Mapping[str, Any] | None:
        """Return the verdict on a clause as the report has it; None for one that was not looked at."""
        row = self.report["clauses"].get(clause, {"subjects": {}})
        found: Mapping[str, Any] | None = row["subjects"].get(self.name)
        return found

    def checks(self, clause: str) -> list[Mapping[str, Any]]:
        """Return the checks that speak of a clause."""
        return [check for check in self.report["checks"] if clause in check["clauses"]]


def columns(rows: Sequence[MatrixRow]) -> list[Column]:
    """Return a column for each row that has a report.

    Raises
    ------
    ValueError
        If two rows are of subjects of one name: their columns could not be told apart.
    """
    ran = [row for row in rows if row.report is not None]
    names = [row.name for row in ran]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two rows are of a subject called {twice!r}; expected one row of each, so leave one out.")
    return [_column(index, row) for index, row in enumerate(ran)]


def _column(index: int, row: MatrixRow) -> Column:
    assert row.report is not None
    subject, clauses = row.report["subjects"][0], row.report["clauses"]
    judged = [f"{subject['bound']} bound, {subject['arithmetic']}", *evaluation_texts(subject.get("evaluation", {}))]
    return Column(
        index=index,
        name=row.name,
        anchor=quote(row.name.encode("utf-8", "backslashreplace"), safe=""),
        version=subject["version"],
        dialect=subject["dialect"] or "",
        profiles=tuple(subject["profiles"]),
        dtypes=tuple(subject["dtypes"]),
        judged=", ".join(judged),
        levels=tuple(
            LevelCount(level, {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]})
            for level, counts in by_level(clauses, row.name).items()
        ),
        claim=claim_of(row.report, subject),
        report=row.report,
        findings=row.findings,
        problem=row.reason,
    )
