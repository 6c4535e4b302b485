"""The divergence table as a page of Markdown: conventions, clauses, and the reason behind every mark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.markdown import code, escaped
from bnspec_conformance.trials.record import outcome_of, reason_of

__all__ = ["page"]

_MARKS = {"passed": "✓", "failed": "✗", "waived": "◐", "not supported": "·", "untested": "?", "unlooked": ""}

_LEGEND = """✓ passed · ◐ fails for a known reason, told below · ✗ failed · `·` not supported: outside what the subject
declares, never a pass · ? untested: something else failed first, or nothing that was compared carried information"""


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
            _table(("subject", "why"), [(code(row.subject), escaped(row.reason)) for row in absent]),
        ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _header(rows: Sequence[MatrixRow], report: Mapping[str, Any]) -> str:
    lines = []
    for row in rows:
        assert row.report is not None
        for s in row.report["subjects"]:
            judged = f"{s['bound']} bound, {s['arithmetic']}"
            judged += "".join(f", {name} in {own}" for name, own in s["evaluation"].items())
            lines.append((code(s["name"]), escaped(s["version"]), s["dialect"] or "", ", ".join(s["profiles"]), judged))
    machine = escaped(f"Python {report['python']}, {report['platform']} {report['machine']}, {report['device']}")
    examples = report["max_examples"] or "each subject's own number of"
    return f"{machine}; seed {report['seed']}, {examples} examples per check.\n\n" + _table(
        ("subject", "version", "dialect", "profiles", "judged by"), lines
    )


def _conventions(rows: Sequence[MatrixRow]) -> str:
    """Return one line for each value of each convention, with the subjects that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for finding in row.findings:
            if finding["verdict"] == "not observable":
                continue
            name = code(row.subject)
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
    names = [row.subject for row in rows]
    lines = [
        (clause, *(_MARKS[entry["subjects"].get(name, {"verdict": "unlooked"})["verdict"]] for name in names))
        for clause, entry in report["clauses"].items()
    ]
    sums = [
        (
            f"**{verdict}**",
            *(
                str(sum(e["subjects"].get(n, {}).get("verdict") == verdict for e in report["clauses"].values()) or "")
                for n in names
            ),
        )
        for verdict in ("passed", "waived", "failed", "not supported", "untested")
    ]
    return _table(("clause", *map(code, names)), [*lines, *sums])


def _reasons(row: MatrixRow) -> str:
    """Return the clauses that a subject does not pass, with reasons; failures of the same kind on one line."""
    assert row.report is not None
    known: dict[tuple[str, str], list[str]] = {}
    failed: dict[str, list[str]] = {}
    lacking: dict[str, list[str]] = {}
    untested: dict[str, list[str]] = {}
    for check in row.report["checks"]:
        links = {w["reason"]: w.get("link") or "" for w in (check["waiver"] or {}).get("applied", ())}
        for clause in check["clauses"]:
            outcome, reason = outcome_of(check, clause), reason_of(check, clause)
            if outcome == "waived":
                known.setdefault((reason, links.get(reason, "")), []).append(clause)
            elif outcome in ("failed", "stale"):
                failed.setdefault(reason.splitlines()[0], []).append(clause)
    for clause, entry in row.report["clauses"].items():
        for mine in entry["subjects"].values():
            if mine["verdict"] == "not supported":
                lacking.setdefault("; ".join(mine["reasons"]), []).append(clause)
            elif mine["verdict"] == "untested":
                untested.setdefault("; ".join(mine["reasons"]), []).append(clause)
    lines = [
        f"- ◐ {_ids(clauses)}: {escaped(reason)}{f' [more]({link})' if link else ''}"
        for (reason, link), clauses in known.items()
    ]
    lines += [f"- ✗ {_ids(clauses)}: {escaped(problem)}" for problem, clauses in failed.items()]
    lines += [f"- ? {_ids(clauses)}: {escaped(reason)}" for reason, clauses in untested.items()]
    lines += [f"- · {_ids(clauses)}: {escaped(reason)}" for reason, clauses in lacking.items()]
    return f"### {escaped(row.subject)}\n\n" + ("\n".join(lines) or "Every clause passes.")


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
