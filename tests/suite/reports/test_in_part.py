"""What a subject could not be asked makes a clause "passed in part", with the reason, wherever a report says it."""

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from limited_ports import limited

from bnspec_conformance.matrix.markdown import page
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report import by_clause, document, table, write_html, write_junit
from bnspec_conformance.report.by_level import by_level, levels_line
from bnspec_conformance.report.compare import compare
from bnspec_conformance.report.json_document import read_report, record_from_json, write_json
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import complete, find_subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.evidence import Evidence
from bnspec_conformance.trials.record import Record

SAMPLES = "it takes no x without samples"


def record(outcome: str, clause: str = "BN-RUN-4", **more: Any) -> Record:
    fields = {"check": f"test_a::test_{outcome}_{len(more)}", "clauses": (clause,), "subject": "port", "seconds": 0.0}
    return Record(**(fields | {"outcome": outcome} | more))


def verdict(*records: Record) -> tuple[str, list[str]]:
    entry = by_clause(records)["BN-RUN-4"]["subjects"]["port"]
    return entry["verdict"], entry["reasons"]


def test_a_clause_is_passed_in_part_where_something_of_it_could_not_be_asked() -> None:
    passed, lacks = record("passed"), record("not supported", reason="it has no such refusal")
    assert verdict(passed) == ("passed", [])
    assert verdict(passed, lacks) == ("passed in part", ["it has no such refusal"])
    part = record("passed", left_out={"BN-RUN-4": ["it has no keep"], "BN-RUN-1": ["of another"]})
    assert verdict(part) == ("passed in part", ["it has no keep"])
    assert verdict(part, lacks) == ("passed in part", ["it has no keep", "it has no such refusal"])
    assert verdict(record("passed", left_out={"BN-RUN-1": ["of another"]})) == ("passed", [])
    # The check of a layer that nobody else has takes nothing from a port's verdict.
    assert verdict(passed, record("not supported", reason="it has no layers", foreign=True))[0] == "passed"
    # What failed, is waived, or was not looked at at all is no pass in part.
    assert verdict(part, record("failed", reason="y is off"))[0] == "failed"
    assert verdict(lacks)[0] == "not supported"
    assert verdict(lacks, record("untested", reason="one value"))[0] == "untested"


def test_a_part_is_left_out_only_if_no_case_could_ask_it() -> None:
    evidence = Evidence()
    evidence.note_part("keep", ("BN-RUN-4", "BN-ERR-1"), "it has no keep")
    evidence.note_part("raise", ("BN-RUN-4",), "not this case")
    evidence.note_part("raise", ("BN-RUN-4",), None)
    evidence.note_part("raise", ("BN-RUN-4",), "nor this one")
    assert evidence.left_out(("BN-RUN-4", "BN-RUN-1")) == {"BN-RUN-4": ["it has no keep"]}
    other = Evidence()
    other.note_part("keep", ("BN-RUN-4", "BN-ERR-1"), None)
    evidence.absorb(other)
    assert evidence.left_out(("BN-RUN-4", "BN-ERR-1")) == {}


@pytest.fixture(scope="module")
def run() -> tuple[Any, list[Record]]:
    """A right port that refuses x without samples, under checks of which one has nothing else to ask."""
    subject = complete(limited("samples", dtypes=("float32",)), "port")
    names = ("test_shapes::test_empty", "test_running::test_count_zero", "test_normalize::test_formula")
    return subject, [attempt(all_checks()[name], subject, Budget(6, 0, shrink=False)) for name in names]


def test_checks_say_what_they_left_out(run: tuple[Any, list[Record]]) -> None:
    empty, count_zero, formula = run[1]
    assert empty.outcome == "passed"
    assert empty.left_out == {"BN-MASK-5": [SAMPLES]}
    assert count_zero.outcome == "passed"
    assert count_zero.left_out == {"BN-RUN-9": [SAMPLES]}
    assert (formula.outcome, formula.left_out) == ("passed", {})


def test_single_values_and_gradients_are_parts() -> None:
    limits = {"options": {"single_value": ("raise",), "correction": (1,)}, "dtypes": ("float32",)}
    subject = complete(limited("two values", **limits), "port")
    found = attempt(all_checks()["test_running::test_single_value"], subject, Budget(4, 0, shrink=False))
    assert found.outcome == "passed"
    assert found.left_out == {"BN-RUN-4": ["it has no single_value='keep'", "it has no single_value='floor'"]}
    subject = complete(limited("no gradient in inference", dtypes=("float32",)), "port")
    found = attempt(all_checks()["test_inference::test_derivatives"], subject, Budget(4, 0, shrink=False))
    assert found.outcome == "passed"
    assert found.left_out == {"BN-INF-3": ["it has no gradient in inference"]}


def test_where_every_part_is_left_out_the_check_is_not_supported() -> None:
    profiles = frozenset({"core", "running"})
    subject = complete(limited("samples", dtypes=("float32",), profiles=profiles, world=1), "port")
    found = attempt(all_checks()["test_running::test_count_zero"], subject, Budget(4, 0, shrink=False))
    assert (found.outcome, found.reason) == ("not supported", SAMPLES)


def test_a_check_that_counts_no_cases_passes_if_its_parts_were_asked() -> None:
    found = attempt(all_checks()["test_frozen::test_independent_switches"], find_subject("numpy"), Budget(2, 0))
    assert (found.outcome, found.left_out) == ("passed", {})


def test_every_report_says_so(run: tuple[Any, list[Record]], tmp_path: Path) -> None:
    subject, records = run
    content = document(records, {"port": subject}, seed=0, max_examples=6, seconds=1.0, command="run port")
    write_json(tmp_path / "report.json", content)
    read = read_report(tmp_path / "report.json")  # by its schema
    assert [record_from_json(c).left_out for c in read["checks"]] == [r.left_out for r in records]
    entry = read["clauses"]["BN-RUN-9"]["subjects"][subject.name]
    assert (entry["verdict"], entry["reasons"], entry["passed"]) == ("passed in part", [SAMPLES], 1)
    assert read["clauses"]["BN-RUN-9"]["verdict"] == "passed in part"
    assert read["clauses"]["BN-SHAPE-4"]["verdict"] == "passed"

    shown = io.StringIO()
    table(read, shown)
    line = next(line for line in shown.getvalue().splitlines() if line.startswith("BN-RUN-9"))
    assert "passed in part: it takes no x without" in line
    assert "2 passed in part, 2 passed" in shown.getvalue()
    assert "A: all, AA: 2 in part, AAA: none" in shown.getvalue()
    assert levels_line(read["clauses"], subject.name) == "A: all, AA: 2 in part, AAA: none"
    assert by_level(read["clauses"], subject.name)["AA"] == {"passed": 1, "passed in part": 2}

    write_html(tmp_path / "report.html", read)
    html = (tmp_path / "report.html").read_text()
    assert "BN-RUN-9: passed in part (1 passed;" in html
    assert 'data-verdict="passed-in-part"' in html
    assert f"{subject.name} keeps all 4 clauses that apply to it" in html
    assert html.count(SAMPLES) >= 4

    write_junit(tmp_path / "report.xml", read)
    assert ET.parse(tmp_path / "report.xml").getroot().attrib["failures"] == "0"

    row = MatrixRow(subject.name, report=read)
    text = page([row], read, "make matrix")
    assert "| BN-RUN-9 | AA | ✓ in part |" in text
    assert "| **passed in part** |  | 2 |" in text
    assert "| **kept** | AA | 1/3, 2 in part |" in text
    assert f"- ✓ in part, BN-RUN-9, BN-MASK-5: {SAMPLES}" in text


def test_less_than_before_is_worse_and_more_is_not(run: tuple[Any, list[Record]]) -> None:
    subject, records = run
    whole = [Record(**(vars(r) | {"left_out": {}})) for r in records]
    made = [
        json.loads(
            json.dumps(document(some, {"port": subject}, seed=0, max_examples=6, seconds=1.0, command="run port"))
        )
        for some in (whole, records)
    ]
    lost = [c for c in compare(*made) if c.kind == "verdict"]
    assert {(c.name, c.worse, c.old, c.new) for c in lost} == {
        (name, True, "passed", "passed in part") for name in ("BN-MASK-5", "BN-RUN-9")
    }
    assert not any(c.worse for c in compare(*reversed(made)) if c.kind == "verdict")
