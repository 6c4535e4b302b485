"""The divergence table as a page of Markdown: conventions, clauses, and the reason behind every mark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnspec_conformance.bounds.declared import evaluation_texts
from bnspec_conformance.cases.levels import LEVELS, level_of_clause
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.by_level import by_level, level_of_entry
from bnspec_conformance.report.pages.markdown import code, escaped
from bnspec_conformance.trials.record import level_of, outcome_of, reason_of

__all__ = ["page"]

_MARKS = {
    "passed": "✓",
    "passed in part": "✓ in part",
    "failed": "✗",
    "waived": "◐",
    "not supported": "·",
    "untested": "?",
    "unlooked": "",
}

_LEGEND = """✓ passed · ✓ in part: what could be asked passed, the rest is told below · ◐ fails for a known reason, told
below · ✗ failed · `·` not supported: outside what the subject declares, never a pass · ? untested: something else
failed first, or nothing that was compared carried information

Levels: A the mathematics, AA the edges, AAA hard numerics and bits. A mark with a level is a failure that shows on
cases of that level only; without one it has the level of its clause. The last rows count what holds at each level."""


def page(rows: Sequence[MatrixRow], report: Mapping[str, Any], command: str) -> str:
    """Return the page.

    Parameters
    ----------
    rows : sequence of Row
        All of them, with those that did not run.
    report : mapping
        The merged report of those that did.
    command : str
        The command that writes the page again.
    """
    ran = [row for row in rows if row.report is not None]
    parts = [
        "# Where implementations of batch normalization differ",
        f"Written by `{command}`, never by hand. Each subject was run against every clause of"
        " [SPEC.md](../bnspec/SPEC.md) and probed for its conventions, in a process of its own.",
        _header(ran, report),
        "## Conventions",
        "Measured from the outside by `bnspec-conformance probe`; what a subject declares is the same unless marked.",
        _conventions(ran),
        "## Clauses",
        _LEGEND,
        _clauses(ran, report),
        "## Why",
        *(_reasons(row) for row in ran),
    ]
    absent = [row for row in rows if row.report is None]
    if absent:
        parts += [
            "## Not run",
            _table(("subject", "why"), [(code(row.subject), escaped(row.reason.replace("`", ""))) for row in absent]),
        ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _header(rows: Sequence[MatrixRow], report: Mapping[str, Any]) -> str:
    lines = []
    for row in rows:
        assert row.report is not None
        for s in row.report["subjects"]:
            judged = f"{s['bound']} bound, {s['arithmetic']}"
            judged += "".join(f", {text}" for text in evaluation_texts(s.get("evaluation", {})))
            lines.append((code(s["name"]), escaped(s["version"]), s["dialect"] or "", ", ".join(s["profiles"]), judged))
    machine = escaped(f"Python {report['python']}, {report['platform']} {report['machine']}, {report['device']}")
    examples = report["max_examples"] or "each subject's own number of"
    text = f"Specification {report['specification']}; " if "specification" in report else ""
    return f"{text}{machine}; seed {report['seed']}, {examples} examples per check.\n\n" + _table(
        ("subject", "version", "dialect", "profiles", "judged by"), lines
    )


def _conventions(rows: Sequence[MatrixRow]) -> str:
    """Return one line for each value of each convention, with the subjects that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for finding in row.findings:
            if finding["verdict"] == "not observable":
                continue
            name = code(row.name)
            if finding["verdict"] == "differs":
                name += f" (declared: {escaped(finding['declared'])})"
            found.setdefault(escaped(finding["convention"]), {}).setdefault(escaped(finding["measured"]), []).append(
                name
            )
    lines = []
    for convention, values in found.items():
        for i, (value, names) in enumerate(sorted(values.items(), key=lambda item: -len(item[1]))):
            lines.append(("" if i else convention, value, ", ".join(names)))
    return _table(("convention", "measured", "subjects"), lines)


def _clauses(rows: Sequence[MatrixRow], report: Mapping[str, Any]) -> str:
    names = [row.name for row in rows]
    lines = [
        (clause, level_of_clause(clause), *(_mark(clause, entry["subjects"].get(name)) for name in names))
        for clause, entry in report["clauses"].items()
    ]
    counted = [by_level(report["clauses"], name) for name in names]
    sums = [
        (f"**{verdict}**", "", *(str(_sum(report["clauses"], name, verdict) or "") for name in names))
        for verdict in ("passed", "passed in part", "waived", "failed", "not supported", "untested")
    ]
    kept = [("**kept**", level, *(_kept(counts[level]) for counts in counted)) for level in LEVELS]
    return _table(("clause", "level", *map(code, names)), [*lines, *sums, *kept])


def _mark(clause: str, entry: Mapping[str, Any] | None) -> str:
    """Return the mark of a verdict, with the level of a failure that is above that of the clause."""
    mark = _MARKS["unlooked" if entry is None else entry["verdict"]]
    above = entry is not None and level_of_entry(clause, entry) != level_of_clause(clause)
    return f"{mark} {level_of_entry(clause, entry)}" if above and entry is not None else mark


def _sum(clauses: Mapping[str, Any], name: str, verdict: str) -> int:
    return sum(entry["subjects"].get(name, {}).get("verdict") == verdict for entry in clauses.values())


def _kept(counts: Mapping[str, int]) -> str:
    """Return how many clauses hold of those that were asked at a level, such as "28/31, 2 in part"."""
    asked = sum(counts.get(verdict, 0) for verdict in ("passed", "passed in part", "waived", "failed", "untested"))
    part = counts.get("passed in part", 0)
    return f"{counts.get('passed', 0)}/{asked}" + (f", {part} in part" if part else "") if asked else ""


def _reasons(row: MatrixRow) -> str:
    """Return the clauses that a subject does not pass, with reasons; failures of the same kind on one line."""
    assert row.report is not None
    known: dict[tuple[str, str, str], list[str]] = {}
    failed: dict[tuple[str, str], list[str]] = {}
    lacking: dict[str, list[str]] = {}
    untested: dict[str, list[str]] = {}
    in_part: dict[str, list[str]] = {}
    for check in row.report["checks"]:
        links = {w["reason"]: w.get("link") or "" for w in (check["waiver"] or {}).get("applied", ())}
        for clause in check["clauses"]:
            outcome, reason = outcome_of(check, clause), reason_of(check, clause)
            if outcome == "waived":
                known.setdefault((level_of(check, clause), reason, links.get(reason, "")), []).append(clause)
            elif outcome in ("failed", "stale"):
                failed.setdefault((level_of(check, clause), reason.splitlines()[0]), []).append(clause)
    for clause, entry in row.report["clauses"].items():
        for mine in entry["subjects"].values():
            if mine["verdict"] == "passed in part":
                in_part.setdefault("; ".join(mine["reasons"]), []).append(clause)
            elif mine["verdict"] == "not supported":
                lacking.setdefault("; ".join(mine["reasons"]), []).append(clause)
            elif mine["verdict"] == "untested":
                untested.setdefault("; ".join(mine["reasons"]), []).append(clause)
    lines = [
        f"- ◐ {level}, {_ids(clauses)}: {escaped(reason)}{f' [more]({link})' if link else ''}"
        for (level, reason, link), clauses in sorted(known.items(), key=_by_level)
    ]
    lines += [
        f"- ✗ {level}, {_ids(clauses)}: {escaped(problem)}"
        for (level, problem), clauses in sorted(failed.items(), key=_by_level)
    ]
    lines += [f"- ✓ in part, {_ids(clauses)}: {escaped(reason)}" for reason, clauses in in_part.items()]
    lines += [f"- ? {_ids(clauses)}: {escaped(reason)}" for reason, clauses in untested.items()]
    lines += [f"- · {_ids(clauses)}: {escaped(reason)}" for reason, clauses in lacking.items()]
    return f"### {escaped(row.name)}\n\n" + ("\n".join(lines) or "Every clause passes.")


def _by_level(item: tuple[tuple[str, ...], object]) -> int:
    """Sort what shows on ordinary inputs before what shows on hard ones."""
    return LEVELS.index(item[0][0])


def _ids(clauses: Iterable[str]) -> str:
    """Clause ids, those of one family together: BN-RUN-1, 3, 4."""
    families: dict[str, list[int]] = {}
    for clause in clauses:
        family, number = clause.rsplit("-", 1)
        families.setdefault(family, []).append(int(number))
    return ", ".join(f"{family}-" + ", ".join(map(str, sorted(set(n)))) for family, n in families.items())


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(headings), line(["---"] * len(headings)), *map(line, lines)])
