"""A report as one HTML file that needs nothing else: style, script and plots are inside, and nothing is fetched."""

import datetime
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bnspec._clauses import Clause
from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.cases.levels import level_of_clause
from bnspec_conformance.cases.scope import PROFILES
from bnspec_conformance.report.by_level import level_of_entry, levels_line
from bnspec_conformance.report.causes import causes
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.report.pages.markdown import plain, rendered
from bnspec_conformance.report.pages.plot import Scale, axis, interval
from bnspec_conformance.report.pages.template import part, render
from bnspec_conformance.report.summary import VERDICTS
from bnspec_conformance.report.unsupported import by_reason, reasons_of
from bnspec_conformance.trials.record import level_of, outcome_of, reason_of
from bnspec_conformance.trials.violations.violation import declaration_text, difference, told_by_ulps

__all__ = ["write_html"]

#: Above this many subjects, columns are narrow and show symbols only.
_FEW = 4


def write_html(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the report as a page.

    Parameters
    ----------
    path : str or Path
    content : mapping
        The report, as `document` makes it.
    """
    from markupsafe import Markup

    page = render(
        "report.html.jinja",
        {
            "number": _number,
            "seconds": _seconds,
            "hex": _hex,
            "difference": difference,
            "declaration": declaration_text,
        },
        style=part("report.css"),
        code=part("report.js"),
        run=content,
        date=datetime.datetime.fromisoformat(content["date"]).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        headline=_headline(content),
        subjects=list(_subjects(content)),
        families=_families(content, lambda text: Markup(rendered(text))),
        causes=causes(content["checks"]),
        wide=len(content["subjects"]) <= _FEW,
        verdicts=[v for v in VERDICTS if v != "unlooked"],
        left_out=len(specification_clauses()) - len(content["clauses"]),
    )
    write_text(path, page)


def _headline(content: Mapping[str, Any]) -> str:
    names = [s["name"] for s in content["subjects"]]
    broken = {n: sum(e["verdict"] == "failed" for e in _entries(content, n)) for n in names}
    failing = [n for n in names if broken[n]]
    if not failing and len(names) > 1:
        waived = any(e["verdict"] == "waived" for n in names for e in _entries(content, n))
        return f"None of {len(names)} subjects breaks a clause" + (" beyond what is known" if waived else "")
    if len(failing) > 1:
        return f"{len(failing)} of {len(names)} subjects break a clause"
    name = (failing or names)[0]
    verdicts = [e["verdict"] for e in _entries(content, name)]
    asked = sum(v in ("passed", "passed in part", "failed", "waived", "untested") for v in verdicts)
    applying = f"{asked} clause{'' if asked == 1 else 's'} that appl{'ies' if asked == 1 else 'y'} to it"
    if failing:
        return f"{name} breaks {broken[name]} of the {applying}"
    if "waived" in verdicts:
        return f"{name} breaks {verdicts.count('waived')} of the {applying}, all of them known"
    if "untested" in verdicts:
        return f"{name} keeps {asked - verdicts.count('untested')} of the {applying}"
    return f"{name} keeps {'the' if asked == 1 else 'all'} {applying}" if asked else f"No clause applies to {name}"


def _subjects(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for subject in content["subjects"]:
        counts = {v: sum(e["verdict"] == v for e in _entries(content, subject["name"])) for v in VERDICTS}
        missing = [name for name in PROFILES if name not in subject["profiles"]]
        yield {
            **subject,
            "counts": counts,
            "total": sum(counts.values()) or 1,
            "levels": levels_line(content["clauses"], subject["name"]),
            "lacks": missing,
        }


def _entries(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [row["subjects"][name] for row in content["clauses"].values() if name in row["subjects"]]


def _families(content: Mapping[str, Any], render: Any) -> list[dict[str, Any]]:
    """Return the clauses that were looked at, under their families, each with all that the page says of it."""
    checks: dict[str, list[Mapping[str, Any]]] = {}
    for check in content["checks"]:
        for clause in check["clauses"]:
            checks.setdefault(clause, []).append(check)
    families: dict[str, dict[str, Any]] = {}
    reasons = reasons_of(content["clauses"], [s["name"] for s in content["subjects"]])
    known = specification_clauses()
    for clause_id, row in content["clauses"].items():
        clause = known.get(clause_id) or Clause(clause_id, clause_id.rpartition("-")[0], "", "", "", ())
        family = families.setdefault(
            clause.family, {"id": clause.family, "title": plain(clause.title_of_page), "clauses": []}
        )
        family["clauses"].append(_clause(clause, row, checks.get(clause_id, []), content, render))
    for family in families.values():
        mine = {clause["id"]: reasons[clause["id"]] for clause in family["clauses"] if clause["id"] in reasons}
        family["unsupported"] = {reason: len(ids) for reason, ids in by_reason(mine).items()}
    return list(families.values())


def _clause(
    clause: Clause, row: Mapping[str, Any], checks: list[Mapping[str, Any]], content: Mapping[str, Any], render: Any
) -> dict[str, Any]:
    names = [s["name"] for s in content["subjects"]]
    lines = [
        _line(name, clause.id, row["subjects"][name], [c for c in checks if c["subject"] == name])
        for name in names
        if name in row["subjects"]
    ]
    numbers = [line["numbers"] for line in lines if line["numbers"]]
    scale = Scale.of([error for error, _ in numbers], [bound for _, bound in numbers])
    for line in lines:
        line["plot"] = None if not line["numbers"] else interval(scale, *line["numbers"])
    outside: dict[str, list[str]] = {}
    for line in lines:
        if line["verdict"] == "not supported":
            outside.setdefault(line["outside"], []).append(line["name"])
    return {
        "id": clause.id,
        "level": level_of_clause(clause.id),
        "text": render(clause.text),
        "first": plain(clause.text),
        "verdict": row["verdict"],
        "folded": all(line["verdict"] == "not supported" for line in lines),
        "cells": [_cell(clause.id, name, row["subjects"].get(name)) for name in names],
        "lines": [line for line in lines if line["verdict"] != "not supported"],
        "outside": outside,
        "axis": axis(scale) if any(line["plot"] for line in lines) else None,
        "seconds": sum(e["seconds"] for e in row["subjects"].values()),
        "checks": list(dict.fromkeys(c["check"] for c in checks if c["outcome"] != "stale")),
        "failures": [
            _failure(c, clause.id) for c in checks if outcome_of(c, clause.id) in ("failed", "waived", "stale")
        ],
    }


def _cell(clause: str, name: str, entry: Mapping[str, Any] | None) -> dict[str, Any]:
    if entry is None:
        return {"name": name, "verdict": "unlooked", "share": 0.0, "label": f"{name}, {clause}: not looked at"}
    share = min(float(entry["worst"]["share"]), 1.0) if entry["worst"] else 0.0
    counted = ", ".join(f"{entry[o]} {o}" for o in ("failed", "stale", "waived", "passed", "untested") if entry[o])
    said = f"{name}, {clause}: {entry['verdict']}"
    if entry["verdict"] in ("failed", "waived"):
        said += f" at level {level_of_entry(clause, entry)}"
    if counted:
        said += f" ({counted}; {_seconds(entry['seconds'])})"
    if entry["worst"]:
        said += f"; worst error {_number(entry['worst']['share'])} of its bound"
    if entry["verdict"] in ("passed in part", "not supported"):
        said += ": " + "; ".join(entry["reasons"])
    return {"name": name, "verdict": entry["verdict"], "share": round(share, 3), "label": said}


def _line(name: str, clause: str, entry: Mapping[str, Any], checks: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a subject's line in the table of a clause; its plot is of the worst failure, else of the worst error.

    The plot is in units of the last place; what these do not tell, next to 0, has none.
    """
    compared = [v for c in checks for v in _violations(c, clause) if "error_ulp" in v]
    violations = [v for v in compared if told_by_ulps(v)]
    numbers, what = None, ""
    if violations:
        worst = max(violations, key=lambda v: _size(v["error_ulp"]))
        numbers, what = (float(worst["error_ulp"]), float(worst["bound_ulp"])), worst.get("what", "")
    elif entry["worst"] and not compared and told_by_ulps(entry["worst"]):
        numbers, what = (float(entry["worst"]["error_ulp"]), float(entry["worst"]["bound_ulp"])), entry["worst"]["what"]
    counted = [f"{entry[o]} {o}" for o in ("failed", "stale", "waived", "passed", "untested", "not supported")]
    told = [(outcome_of(c, clause), c) for c in checks]
    return {
        "name": name,
        "verdict": entry["verdict"],
        "counted": ", ".join(c for c in counted if not c.startswith("0 ")),
        "seconds": entry["seconds"],
        "reasons": list(
            dict.fromkeys(
                c["waiver"]["reason"] if outcome == "waived" and not c.get("booked") else reason_of(c, clause)
                for outcome, c in told
                if outcome in ("waived", "stale", "untested")
            )
        )
        + (list(entry["reasons"]) if entry["verdict"] == "passed in part" else []),
        "outside": "; ".join(entry["reasons"]),
        "numbers": numbers,
        "what": what,
    }


def _failure(check: Mapping[str, Any], clause: str) -> dict[str, Any]:
    """Return a counterexample, in full under the first of the clauses that it breaks, as a link under the others."""
    mine = _violations(check, clause)
    violation = mine[0] if mine else check["violation"] or {}
    problem = violation.get("problem") or check["reason"].split("\n")[0]
    first = (violation.get("clauses") or check["clauses"])[0]
    return {
        "check": check["check"],
        "subject": check["subject"],
        "outcome": outcome_of(check, clause),
        "level": level_of(check, clause),
        "problem": problem,
        "elsewhere": None if first == clause else first,
        "violation": violation,
        "text": None if violation.get("case") else check["reason"],
        "waiver": check["waiver"],
        "replay": f"bnspec-conformance replay REPORT.json --check {shlex.quote(check['check'])}",
        "anchor": f"{check['subject']}/{check['check']}",
    }


def _violations(check: Mapping[str, Any], clause: str) -> list[Mapping[str, Any]]:
    """Return the violations of a check that break a clause."""
    every = [v for v in (check["violation"], *check.get("others", ())) if v]
    return [v for v in every if clause in v.get("clauses", (clause,))]


def _size(value: Any) -> float:
    """For sorting; NaN is the largest."""
    number = float(value)
    return number if number == number else float("inf")


def _number(value: Any) -> str:
    number = float(value)
    return f"{number:.3g}" if number == number and abs(number) != float("inf") else str(number).replace("inf", "∞")


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def _hex(value: Any) -> str:
    return float(value).hex()
