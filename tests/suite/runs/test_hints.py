"""Hints come from judging the failing case with another bound: they hold, and are missing where none would help."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bnspec_conformance import find_subject
from bnspec_conformance.cases.codecs.argument_codec import argument_from_json
from bnspec_conformance.report import write_html
from bnspec_conformance.report.json_document import document
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.run.jobs.one_check import run_check
from bnspec_conformance.run.restricted import Restricted
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record
from bnspec_conformance.trials.violations.violation import declaration_text

HERE = Path(__file__).parents[2] / "support" / "subjects"
FORMULA, CONSTANT = "test_normalize::test_formula", "test_normalize::test_constant_channel"
BUDGET = Budget(examples=12, sizes="none")


@pytest.fixture(autouse=True)
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def seen(port: str, check: str = FORMULA, **said: Any) -> tuple[Any, Record]:
    subject = find_subject(f"narrow_ports:{port}")
    subject = Restricted(subject, **said) if said else subject
    found = run_check(check, subject, BUDGET)
    assert found is not None
    return subject, found


@pytest.mark.parametrize(
    ("port", "said", "wanted"),
    [
        ("Elementwise", {}, {"evaluation": {"y": "float32"}}),
        ("Elementwise", {"arithmetic": "twofold"}, {"evaluation": {"y": "float32"}}),
    ],
)
def test_the_narrowest_declaration_that_holds_is_told(port: str, said: dict[str, Any], wanted: dict[str, Any]) -> None:
    subject, found = seen(port, **said)
    assert found.outcome == "failed"
    assert found.violation is not None
    assert found.violation["would_pass_with"] == wanted
    line = f"  hint      this case would pass with {declaration_text(wanted)}"
    assert found.reason.splitlines()[-1] == line
    drawn = argument_from_json(found.violation["drawn"])
    declared = attempt(all_checks()[FORMULA], Restricted(subject, **wanted), BUDGET, drawn=drawn)
    assert declared.outcome == "passed"
    assert attempt(all_checks()[FORMULA], subject, BUDGET, drawn=drawn).outcome == "failed"


def test_everything_in_float32_is_told_as_such() -> None:
    subject, found = seen("Naive")
    assert found.violation is not None
    hint = found.violation["would_pass_with"]
    drawn = argument_from_json(found.violation["drawn"])
    assert attempt(all_checks()[FORMULA], Restricted(subject, **hint), BUDGET, drawn=drawn).violation is None


def test_a_wrong_formula_gets_no_hint_and_neither_does_what_must_be_the_same_to_the_bit() -> None:
    for port, check in (("Wrong", FORMULA), ("Naive", CONSTANT)):
        _, found = seen(port, check)
        assert found.outcome == "failed"
        assert "hint" not in found.reason
        assert found.violation is not None
        assert "would_pass_with" not in found.violation


def test_what_passes_and_what_declares_the_widest_bound_is_left_alone() -> None:
    assert seen("Sums")[1].outcome == "passed"
    _, found = seen("Wrong", arithmetic="float32", bound="plain")
    assert found.outcome == "failed"
    assert "hint" not in found.reason


def test_the_page_and_the_report_have_the_hint(tmp_path: Path) -> None:
    subject, found = seen("Elementwise")
    content = document([found], {"narrow_ports:Elementwise": subject}, seed=0, max_examples=4, seconds=1.0, command="r")
    write_html(tmp_path / "r.html", content)
    said = "would pass with <code>evaluation = {&#39;y&#39;: &#39;float32&#39;}</code>"
    assert said in (tmp_path / "r.html").read_text()
    plain = dataclasses.replace(found, violation=dict(found.violation or {}, would_pass_with={"bound": "plain"}))
    content = document([plain], {"narrow_ports:Elementwise": subject}, seed=0, max_examples=4, seconds=1.0, command="r")
    assert content["checks"][0]["violation"]["would_pass_with"] == {"bound": "plain"}
