"""The page: its parts put together from the rows of the matrix, and written as one file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnspec._clauses import Clause
from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.cases.levels import LEVELS, level_of_clause
from bnspec_conformance.matrix.page.cell import WORDS, Cell, cell
from bnspec_conformance.matrix.page.column import Column, columns
from bnspec_conformance.matrix.page.convention import conventions
from bnspec_conformance.matrix.page.fact import facts, notes, versions
from bnspec_conformance.matrix.page.link import finding_link
from bnspec_conformance.matrix.page.reason import Reason, reasons
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.report.pages.markdown import plain, rendered
from bnspec_conformance.report.pages.template import part, render
from bnspec_conformance.report.summary import VERDICTS
from bnspec_conformance.trials.violations.violation import declaration_text, difference

__all__ = ["Family", "Line", "matrix_page", "write_matrix_page"]

_HERE = "bnspec_conformance.matrix.page"

#: Verdicts in the order of the legend and of the bars.
_LEGEND = ("passed", "passed in part", "waived", "failed", "not supported", "untested", "unlooked")

#: Words for a verdict that have a plural.
_NOUNS = ("known failure", "stale waiver")

#: Up to this many subjects have columns that are wide enough for words.
_FEW = 6


@dataclass(frozen=True)
class Line:
    """One clause: a line of the table, and what is told of it below.

    Attributes
    ----------
    clause : Clause
    level : {"A", "AA", "AAA"}
    text : str
        The clause as a reader sees it, on one line.
    html : str
        The same with its formulas set, as markup.
    cells : list of Cell
    reasons : list of Reason
    """

    clause: Clause
    level: str
    text: str
    html: Any
    cells: list[Cell]
    reasons: list[Reason]

    @property
    def counts(self) -> str:
        """Number of subjects with each verdict, such as "4 known failures, 2 passed"."""
        ordered = sorted(self.cells, key=lambda one: VERDICTS.index(one.verdict))
        found = Counter(one.word for one in ordered)
        return ", ".join(f"{n} {word}{'s' if n > 1 and word in _NOUNS else ''}" for word, n in found.items())

    def first_of(self, column: Column) -> Reason | None:
        """Return the reason of a subject that its cell leads to."""
        return next((reason for reason in self.reasons if column in reason.columns), None)


@dataclass(frozen=True)
class Family:
    """Clauses of one family.

    Attributes
    ----------
    id, title : str
        Such as "BN-RUN" and "Running statistics".
    lines : list of Line
    """

    id: str
    title: str
    lines: list[Line]


def matrix_page(rows: Sequence[MatrixRow], command: str, docs: str = "") -> str:
    """Return the page, which asks for no other file.

    Parameters
    ----------
    rows : sequence of MatrixRow
        All of them, with those that did not run.
    command : str
        The command that writes the page again.
    docs : str
        The folder ``docs/`` as the page sees it, for links to findings; empty if the page lies in it.

    Raises
    ------
    ValueError
        If two rows are of subjects of one name.
    """
    found = columns(rows)
    families = _families(found)
    dialects = dict.fromkeys(sorted((column.dialect for column in found), key=lambda name: (not name, name)))
    return render(
        "matrix.html.jinja",
        {
            "declaration": declaration_text,
            "difference": difference,
            "finding": lambda link: finding_link(link, docs),
            "hex": lambda value: float(value).hex(),
        },
        folder=_HERE,
        style=part("report.css"),
        own=part("matrix.css", _HERE),
        code=part("matrix.js", _HERE),
        command=command,
        headline=_headline(found),
        lead=_lead(found),
        facts=facts(found),
        versions=versions(found),
        notes=notes(found),
        columns=found,
        dialects={name: [column for column in found if column.dialect == name] for name in dialects},
        families=families,
        total=sum(len(family.lines) for family in families),
        conventions=conventions(found),
        absent=[row for row in rows if row.report is None],
        levels=LEVELS,
        legend=_LEGEND,
        words=WORDS,
        few=len(found) <= _FEW,
    )


def write_matrix_page(path: str | Path, rows: Sequence[MatrixRow], command: str, docs: str = "") -> None:
    """Write the page.

    Parameters
    ----------
    path : str or Path
    rows, command, docs
        As `matrix_page` takes them.
    """
    write_text(path, matrix_page(rows, command, docs))


def _families(found: Sequence[Column]) -> list[Family]:
    """Return the clauses that some row looked at, in the order of SPEC.md, those that it does not have last."""
    from markupsafe import Markup

    known = specification_clauses()
    looked = dict.fromkeys(clause for column in found for clause in column.report["clauses"])
    families: dict[str, Family] = {}
    for clause_id in [*(c for c in known if c in looked), *(c for c in looked if c not in known)]:
        clause = known.get(clause_id) or Clause(clause_id, clause_id.rpartition("-")[0], "", "", "", ())
        family = families.setdefault(clause.family, Family(clause.family, plain(clause.title_of_page), []))
        family.lines.append(
            Line(
                clause,
                level_of_clause(clause_id),
                plain(clause.text) or "This clause is of another version of SPEC.md.",
                Markup(rendered(clause.text)),
                [cell(clause_id, column) for column in found],
                reasons(clause_id, found),
            )
        )
    return list(families.values())


def _headline(found: Sequence[Column]) -> str:
    number = len(found)
    if not number:
        return "No subject ran"
    many = "" if number == 1 else "s"
    return f"{number} implementation{many} of batch normalization, clause by clause"


def _lead(found: Sequence[Column]) -> list[str]:
    """Return how many subjects keep every clause that was asked of them, and how many do not."""
    verdicts = {column.name: {v for level in column.levels for v in level.counts} for column in found}
    failing = sum("failed" in mine for mine in verdicts.values())
    known = sum("waived" in mine and "failed" not in mine for mine in verdicts.values())
    untested = sum("untested" in mine and not {"failed", "waived"} & mine for mine in verdicts.values())
    rest = len(found) - failing - known - untested
    counted: Mapping[str, int] = {
        "kept every clause that could be asked of them": rest,
        "broke none, with some clause that could not be tested": untested,
        "broke clauses, all of them known with a reason": known,
        "broke clauses that nobody has explained, or have a waiver that is stale": failing,
    }
    return [f"{number} {text}" for text, number in counted.items() if number]
