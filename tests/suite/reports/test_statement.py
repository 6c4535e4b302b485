"""Statements of conformance: what a run has shown is claimed, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from bnspec_conformance import find_subject
from bnspec_conformance.bounds.declared import evaluation_texts
from bnspec_conformance.report import document, write_statement
from bnspec_conformance.report.pages.markdown import rendered
from bnspec_conformance.report.statement import level_reached, statement
from bnspec_conformance.trials.record import Record

ROOT = Path(__file__).resolve().parents[3]


def record(outcome: str, clause: str, level: str | None = None, reason: str = "because") -> Record:
    violation = {"clauses": [clause], "subject": "numpy", "problem": reason, "case": None}
    booked = {} if level is None else {clause: {"outcome": outcome, "reason": reason, "level": level}}
    more: dict[str, Any] = {"violation": violation} if outcome in ("failed", "waived") else {}
    if outcome == "waived":
        more["waiver"] = {"entry": 1, "reason": reason, "applied": [{"entry": 1}]}
    return Record(f"test_a::test_{clause}", (clause,), "numpy", outcome, 0.1, reason=reason, booked=booked, **more)


def made(*records: Record, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"seed": 0, "max_examples": None, "seconds": 1.0, "command": "bnspec-conformance run numpy"}
    return document(records, {"numpy": find_subject("numpy")}, **(given | more))


#: One clause of each level.
KEPT = [record("passed", clause) for clause in ("BN-RUN-1", "BN-RUN-4", "BN-NORM-3")]


def test_a_run_in_which_everything_passed_is_claimed_with_its_terms() -> None:
    text = statement(made(*KEPT))
    subject = find_subject("numpy")
    claim = f"**numpy ({subject.version()}) conforms to bnspec SPEC 1.0, level AAA, profiles core, "
    assert claim in text
    elementwise = ", ".join(evaluation_texts(subject.evaluation)) or "float64"  # as the kernels in use compute
    assert f"W float64, E {elementwise}, bound strict; x of " in text
    assert "| cases per check | " in text
    assert "Not asked: 103 of 106 clauses" in text


@pytest.mark.parametrize("outcome", ["failed", "waived", "untested"])
@pytest.mark.parametrize(("clause", "reached"), [("BN-RUN-3", None), ("BN-RUN-9", "A"), ("BN-NORM-5", "AA")])
def test_a_clause_that_does_not_hold_ends_the_level_and_is_named(
    outcome: str, clause: str, reached: str | None
) -> None:
    content = made(*KEPT, record(outcome, clause, reason="it *does* not"))
    assert level_reached(content["clauses"], "numpy") == reached
    text = statement(content)
    title = {"failed": "Not kept:", "waived": "Not kept, and known (waived):", "untested": "Not shown:"}[outcome]
    assert f"- {clause}" in text.split(title, 1)[1].split("\n\n")[1]
    assert "it \\*does\\* not" in text
    assert (f"level {reached}, profiles" in text) == (reached is not None)
    assert ("supports no claim" in text) == (reached is None)


def test_a_clause_that_fails_on_hard_numbers_only_leaves_its_own_level() -> None:
    content = made(*KEPT, record("failed", "BN-RUN-3", "AAA"))
    assert level_reached(content["clauses"], "numpy") == "AA"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"partial": ["--clause", "-x"]}, "- only a part of the suite was run, by --clause, -x"),
        ({"interrupted": True}, "- the run did not come to its end"),
        ({"sizes": "none"}, "- large cases were left out, by --sizes none"),
        ({"notes": ["stale: numpy: entry 1"]}, "- stale: numpy: entry 1"),
    ],
)
def test_a_run_that_shows_less_supports_no_claim(more: dict[str, Any], said: str) -> None:
    text = statement(made(*KEPT, **more))
    assert "**This run supports no claim of conformance**, since\n" in text
    assert said in text.splitlines()
    assert "conforms to" not in text


def test_nothing_is_claimed_of_nothing() -> None:
    assert "no clause of it was looked at" in statement(made(record("not supported", "BN-RUN-1")))


def test_what_was_asked_in_part_and_what_was_not_asked_is_named() -> None:
    part = [record("passed", "BN-RUN-1"), record("not supported", "BN-RUN-1", reason="it has no mask")]
    text = statement(made(*KEPT[1:], *part, record("not supported", "BN-SYNC-1", reason="it has no sync")))
    assert "- BN-RUN-1: it has no mask" in text
    assert "- 1: it has no sync" in text
    assert "level AAA, profiles" in text


def test_hostile_text_stays_where_it_is(tmp_path: Path) -> None:
    evil = "x\n\n# I conform **to all**\n\n| a | <script>"
    content = made(*KEPT, record("failed", "BN-NORM-5", reason=evil), command=evil, notes=[evil])
    content["subjects"][0] |= {"name": evil, "version": evil}
    content["clauses"] = {c: {**r, "subjects": {evil: r["subjects"]["numpy"]}} for c, r in content["clauses"].items()}
    write_statement(tmp_path / "s.md", content)
    text = (tmp_path / "s.md").read_text()
    page = rendered(text)
    assert page.count("<h1>") == 1
    assert page.count("<strong>") == 1
    assert page.count("<table>") == 2
    assert "<script" not in page


def test_the_page_names_every_option_that_leaves_something_out() -> None:
    page = (ROOT / "docs" / "claims.md").read_text()
    for option in ("-k", "--clause", "--profile", "--last-failed", "-x", "--max-examples", "--sizes none"):
        assert f"`{option}`" in page
