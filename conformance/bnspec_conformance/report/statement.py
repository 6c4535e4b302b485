"""Statement of conformance: what a run has shown, as a page of Markdown, and nothing that it has not shown."""

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.bounds.declared import evaluation_texts
from bnspec_conformance.cases.levels import LEVELS
from bnspec_conformance.report.by_level import by_level, level_of_entry
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.report.pages.markdown import code, escaped
from bnspec_conformance.report.unsupported import by_reason, reasons_of

__all__ = ["Claim", "claim_of", "level_reached", "obstacles", "statement", "write_statement"]

#: Verdicts with which a clause is not shown to hold.
_OPEN = ("failed", "waived", "untested")


class Claim(NamedTuple):
    """Claim that a run supports for one subject, or the reasons why it supports none."""

    level: str | None  # the highest that may be claimed; None where nothing may be
    against: tuple[str, ...]  # why nothing may be claimed; empty where something may be
    words: str  # the claim in one sentence, without a full stop; empty where there is none


def write_statement(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the statement of a report, whatever it says: an older one that claims more does not stay."""
    write_text(path, statement(content))


def obstacles(content: Mapping[str, Any]) -> list[str]:
    """Return the reasons why a run as a whole supports no claim, whatever passed.

    Parameters
    ----------
    content : mapping
        The report. Only a run of the whole suite that came to its end, with nothing to be said of it, supports one.
    """
    found = []
    if content.get("interrupted"):
        found.append("the run did not come to its end")
    if content.get("partial"):
        found.append(f"only a part of the suite was run, by {', '.join(content['partial'])}")
    if content.get("sizes") == "none":
        found.append("large cases were left out, by --sizes none")
    return [*found, *content.get("notes", ())]


def level_reached(clauses: Mapping[str, Any], name: str) -> str | None:
    """Return the highest level up to which every clause that was asked is shown to hold; None where A is not.

    Parameters
    ----------
    clauses : mapping
        ``clauses`` of a report.
    name : str
        The subject's.
    """
    reached = None
    for level, counts in by_level(clauses, name).items():
        shown = counts["passed"] + counts["passed in part"]
        if not shown or any(counts[verdict] for verdict in _OPEN):
            break
        reached = level
    return reached


def claim_of(content: Mapping[str, Any], subject: Mapping[str, Any]) -> Claim:
    """Return what may be claimed of a subject after a run: what docs/claims.md allows, and nothing else.

    Parameters
    ----------
    content : mapping
        The report.
    subject : mapping
        One of its ``subjects``.

    Returns
    -------
    Claim
        A failure that a waiver covers is a failure here: its level is not reached.
    """
    level, against = level_reached(content["clauses"], subject["name"]), obstacles(content)
    if level is None:
        against = [*against, *_against_a(content["clauses"], subject["name"])]
    if against or level is None:
        return Claim(None, tuple(against), "")
    words = f"{subject['name']} ({subject['version']}) conforms to {_claim(content, subject, level)}"
    return Claim(level, (), words)


def statement(content: Mapping[str, Any]) -> str:
    """Return the statement of a report, with a section for each subject."""
    date = datetime.datetime.fromisoformat(content["date"]).strftime("%d %B %Y").lstrip("0")
    head = [
        "# Statement of conformance",
        "",
        f"Written by bnspec-conformance {escaped(content['bnspec'])} on {date}; the report of this run belongs to it. "
        "The page claims.md of bnspec says what the words mean.",
    ]
    sections = (_section(content, subject) for subject in content["subjects"])
    return "\n".join([*head, *(line for section in sections for line in section)]) + "\n"


def _section(content: Mapping[str, Any], subject: Mapping[str, Any]) -> Iterator[str]:
    name, clauses = subject["name"], content["clauses"]
    claim = claim_of(content, subject)
    yield from ("", f"## {escaped(name)}", "")
    if claim.level is None:
        yield "**This run supports no claim of conformance**, since"
        yield from ("", *(f"- {escaped(reason)}" for reason in claim.against))
    else:
        yield f"**{escaped(claim.words)}.**"
    yield from ("", "| what | value |", "| --- | --- |")
    yield from (f"| {key} | {value} |" for key, value in _facts(content, subject))
    yield from ("", "| level | clauses | passed | in part | failed | waived | untested |", "| --- " * 7 + "|")
    for each, counts in by_level(clauses, name).items():
        asked = ("passed", "passed in part", *_OPEN)
        numbers = " | ".join(str(counts[verdict]) for verdict in asked)
        yield f"| {each} | {sum(counts[verdict] for verdict in asked)} | {numbers} |"
    for verdict, title in (
        ("failed", "Not kept"),
        ("waived", "Not kept, and known (waived)"),
        ("untested", "Not shown"),
        ("passed in part", "Asked in part"),
    ):
        lines = list(_of_verdict(clauses, name, verdict))
        yield from (("", f"{title}:", "", *lines) if lines else ())
    yield from _not_asked(content, name)


def _claim(content: Mapping[str, Any], subject: Mapping[str, Any], level: str) -> str:
    """Return the words of a claim, after "conforms to"."""
    elementwise = ", ".join(evaluation_texts(subject.get("evaluation", {}))) or subject["arithmetic"]
    return (
        f"bnspec SPEC {content['specification']}, level {level}, profiles {', '.join(subject['profiles'])}; "
        f"W {subject['arithmetic']}, E {elementwise}, bound {subject['bound']}; x of {', '.join(subject['dtypes'])}"
    )


def _against_a(clauses: Mapping[str, Any], name: str) -> list[str]:
    counts = by_level(clauses, name)[LEVELS[0]]
    open_ = [f"{counts[verdict]} {verdict}" for verdict in _OPEN if counts[verdict]]
    return [f"level {LEVELS[0]} is not reached: {' and '.join(open_) or 'no clause of it was looked at'}"]


def _facts(content: Mapping[str, Any], subject: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "subject", f"{code(subject['name'])}, {escaped(subject['version'])}"
    yield "specification", escaped(content.get("specification", "unknown"))
    for key, value in subject.get("scope", {}).items():
        yield f"scope: {escaped(key.replace('_', ' '))}", escaped(_words(value))
    yield "cases per check", f"{content['max_examples'] or subject.get('examples', 'unknown')}, seed {content['seed']}"
    yield "large cases", escaped(content.get("sizes", "none"))
    yield "machine", escaped(f"{content['platform']}, {content['machine']}, {content['device']}")
    yield "command", code(content["command"])


def _words(value: Any) -> str:
    """Return a value of the scope in words."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(each)}" for key, each in value.items()) or "all"
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    return {True: "yes", False: "no"}.get(value, "") if isinstance(value, bool) else str(value)


def _of_verdict(clauses: Mapping[str, Any], name: str, verdict: str) -> Iterator[str]:
    for clause, row in clauses.items():
        entry = row["subjects"].get(name)
        if entry is not None and entry["verdict"] == verdict:
            why = entry["reasons"][:1] if verdict in ("failed", "waived") else entry["reasons"]
            at = f" at level {level_of_entry(clause, entry)}" if verdict in ("failed", "waived") else ""
            yield f"- {clause}{at}: {escaped('; '.join(why)) or 'no reason is given'}"


def _not_asked(content: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield how many clauses the subject was not asked about, by the reason."""
    reasons = reasons_of(content["clauses"], [name])
    unlooked = len(specification_clauses()) - sum(name in row["subjects"] for row in content["clauses"].values())
    number = len(reasons) + max(unlooked, 0)
    yield from ("", f"Not asked: {number} of {len(specification_clauses())} clauses", "")
    yield from (f"- {len(ids)}: {escaped(reason)}" for reason, ids in by_reason(reasons).items())
    if unlooked > 0:
        yield f"- {unlooked}: not part of this run"
