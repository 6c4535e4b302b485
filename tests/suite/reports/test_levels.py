"""Levels: of cases, of failures, in every report, and in the exit status."""

import dataclasses
import io
import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from suite_command import command

import bnspec
from bnspec._clauses import clauses as specification
from bnspec_conformance import Case, Outcome, RankInputs, Scope, find_subject
from bnspec_conformance.cases.inputs.families import hard_families
from bnspec_conformance.cases.levels import level_of_case
from bnspec_conformance.matrix.markdown import page
from bnspec_conformance.matrix.merge import merged
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report import by_clause, document, read_report, table
from bnspec_conformance.report.by_level import levels_line
from bnspec_conformance.report.compare import compare
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record

CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
ROWS = np.asarray([[0.5, 3.0], [1.0, -1.0], [2.0, 0.25], [-1.5, 0.0]], np.float32)


def case(x: Any = ROWS, *, mask: Any = None, **fields: Any) -> Case:
    return Case(config=fields.pop("config", CONFIG), ranks=(RankInputs(x, mask=mask),), **fields)


def with_row(*values: float) -> Any:
    x = ROWS.copy()
    x[0] = values
    return x


# Cases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "level"),
    [
        (case(), "A"),
        (case(np.stack([ROWS, ROWS + 1], axis=1), config=dataclasses.replace(CONFIG, axis=2)), "A"),
        (case(np.zeros((3, 2), np.float32)), "A"),  # nothing is lost at 0
        (case(ROWS[:1]), "AA"),
        (case(ROWS[:0]), "AA"),
        (case(ROWS[:, :0]), "AA"),
        (case(with_row(np.nan, 0)), "AA"),
        (case(gamma=np.asarray([1, np.inf], np.float32)), "AA"),
        (case(ROWS.astype(np.float16)), "AA"),
        (case(np.asfortranarray(ROWS)), "AA"),
        (case(ROWS.astype(">f4")), "AA"),
        (case(mask=np.asarray([[True], [False], [False], [False]])), "AA"),
        (case(np.tile(ROWS, (2**14 + 1, 1))), "AA"),
        (case(config=dataclasses.replace(CONFIG, virtual_batch_size=1)), "AA"),
        (case(config=dataclasses.replace(CONFIG, virtual_batch_size=3)), "AA"),  # to be refused
        (case(np.full((3, 2), 0.1, np.float32)), "AAA"),
        (case(ROWS + np.float32(1e4)), "AAA"),
        (case(with_row(1e8, 0)), "AAA"),
        (case(with_row(1e-42, 0)), "AAA"),
        (case(ROWS * np.float32(1e20)), "AAA"),
        (case((ROWS + 1e4).astype(np.float16)), "AAA"),
        # The far element is masked; the group of two is constant though all four values are not.
        (case(with_row(1e8, 0), mask=np.asarray([[False], [True], [True], [True]])), "A"),
        (case(ROWS[[1, 1, 2, 3]], config=dataclasses.replace(CONFIG, virtual_batch_size=2)), "AAA"),
        (None, "A"),
    ],
)
def test_the_level_of_a_case_follows_from_its_numbers(made: Case | None, level: str) -> None:
    assert level_of_case(made) == level


def test_a_case_of_a_hard_family_is_hard() -> None:
    for name, (x, gamma, _, dy, epsilon) in hard_families().items():
        config = dataclasses.replace(CONFIG, axis=x.ndim - 1, epsilon=epsilon)
        made = Case(config=config, ranks=(RankInputs(x, dy),), gamma=gamma, note=f"hard family {name}")
        assert level_of_case(made) == "AAA"


# Failures ---------------------------------------------------------------------------------------------------


class Port:
    """bnspec's numbers, wrong on some cases."""

    arithmetic, bound, flushes, dialect, backend, examples = "float64", "strict", False, None, None, 12
    evaluation: ClassVar[dict[str, str]] = {}
    name = "port"

    def __init__(self, wrong: Callable[[Case], bool], dtypes: tuple[str, ...] = ("float32",)) -> None:
        self.wrong, self.right = wrong, find_subject("numpy-specification")
        self.scope = Scope(profiles=frozenset({"core"}), dtypes=dtypes, world=1)

    def version(self) -> str:
        return "1"

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        (rank,) = self.right.run(case).ranks
        return Outcome((dataclasses.replace(rank, y=rank.y + rank.y.dtype.type(self.wrong(case))),))


def level(port: Port, clause: str, *, shrink: bool, seed: int = 0) -> str:
    found = attempt(all_checks()["test_normalize::test_formula"], port, Budget(40, seed, shrink))
    entry = by_clause([found])[clause]["subjects"]["port"]
    assert entry["verdict"] == "failed"
    levels = {v.get("level") for v in (found.violation, *found.others) if v is not None and clause in v["clauses"]}
    assert levels == {entry["level"]}
    return str(entry["level"])


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_failure_has_the_level_of_the_lowest_case_that_shows_it(shrink: bool, seed: int) -> None:
    wrong: dict[str, Callable[[Case], bool]] = {
        "A": lambda case: True,
        "AA": lambda case: level_of_case(case) != "A",
        "AAA": lambda case: level_of_case(case) == "AAA",
    }
    found = {name: level(Port(is_wrong), "BN-NORM-1", shrink=shrink, seed=seed) for name, is_wrong in wrong.items()}
    assert (found["A"], found["AAA"]) == ("A", "AAA")
    assert found["AA"] in (("AA",) if shrink else ("AA", "AAA"))


def test_16_bits_are_an_edge() -> None:
    assert level(Port(lambda case: True, ("float16",)), "BN-NORM-1", shrink=False) == "AA"


# Reports ----------------------------------------------------------------------------------------------------


def record(outcome: str, clause: str, level: str = "", **more: Any) -> Record:
    violation = {"clauses": [clause], "subject": "numpy", "problem": "y is off", "case": None}
    booked = {clause: {"outcome": outcome, "reason": "y is off", "level": level}} if level else {}
    waiver = (
        {"entry": 1, "reason": "known", "applied": [{"entry": 1, "reason": "known"}]} if outcome == "waived" else None
    )
    more = {"violation": violation if outcome in ("failed", "waived") else None, "booked": booked} | more
    return Record("test_x::test_y", (clause,), "numpy", outcome, 0.1, reason="y is off", waiver=waiver, **more)


def made(*records: Record, **more: Any) -> dict[str, Any]:
    given = {"seed": 0, "max_examples": 4, "seconds": 1.0, "command": "run"} | more
    return document(records, {"numpy": find_subject("numpy")}, **given)


MIXED = (
    record("passed", "BN-NORM-1"),
    record("failed", "BN-MOM-2", "AA"),
    record("failed", "BN-NORM-3", "AAA"),
    record("waived", "BN-NORM-4", "AAA"),
    record("untested", "BN-MOM-5"),
)


def test_the_line_says_by_level_what_does_not_hold() -> None:
    assert levels_line(made(*MIXED)["clauses"], "numpy") == (
        "A: all, AA: 1 failed, AAA: 1 failed and 1 waived and 1 untested"
    )
    assert levels_line(made(record("not supported", "BN-NORM-1"))["clauses"], "numpy") == "A: none, AA: none, AAA: none"


def test_the_lowest_level_of_several_checks_counts() -> None:
    rows = by_clause([record("failed", "BN-NORM-1", "AAA"), record("failed", "BN-NORM-1", "AA")])
    assert (rows["BN-NORM-1"]["level"], rows["BN-NORM-1"]["subjects"]["numpy"]["level"]) == ("A", "AA")
    # A record without a level of its own: that of the clause, or of the case.
    assert by_clause([record("failed", "BN-MOM-9")])["BN-MOM-9"]["subjects"]["numpy"]["level"] == "AA"
    hard = record("failed", "BN-NORM-1", violation={"clauses": ["BN-NORM-1"], "case_level": "AAA"})
    assert by_clause([hard])["BN-NORM-1"]["subjects"]["numpy"]["level"] == "AAA"


def test_the_tables_have_a_column_of_levels() -> None:
    out = io.StringIO()
    table(made(*MIXED), out)
    lines = {line.split()[0]: line.split()[1] for line in out.getvalue().splitlines() if line.startswith("BN-")}
    assert lines == {"BN-NORM-1": "A", "BN-MOM-2": "AA", "BN-NORM-3": "AAA", "BN-NORM-4": "AAA", "BN-MOM-5": "AAA"}
    assert "A: all, AA: 1 failed, AAA: 1 failed and 1 waived and 1 untested\n" in out.getvalue()
    out = io.StringIO()
    table(made(*MIXED, level="A"), out)
    assert "; what failed above A does not fail the run\n" in out.getvalue()
    several = {name: find_subject("numpy-specification") for name in ("numpy", "other")}
    for name, subject in several.items():
        subject.name = name
    records = [*MIXED, dataclasses.replace(MIXED[0], subject="other")]
    out = io.StringIO()
    table(document(records, several, seed=0, max_examples=4, seconds=1.0, command="run"), out)
    assert "FAILED AA" in out.getvalue()
    assert "other: A: all, AA: none, AAA: none" in out.getvalue()


def test_a_failure_at_a_lower_level_is_worse() -> None:
    hard, ordinary = made(record("failed", "BN-NORM-1", "AAA")), made(record("failed", "BN-NORM-1", "A"))
    for old, new, worse in ((hard, ordinary, True), (ordinary, hard, False)):
        (change,) = compare(old, new)
        assert (change.kind, change.name, change.worse) == ("level", "BN-NORM-1", worse)


# Runs -------------------------------------------------------------------------------------------------------


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    words = ["run", "wrong_subjects:hard_only", "--clause", "BN-NORM-1", "--max-examples", "30", *arguments]
    return command(*words, "--no-shrink", "--json", "r.json", "--junit", "r.xml", cwd=cwd)


@pytest.mark.parametrize(("options", "status"), [((), 1), (("--level", "AAA"), 1), (("--level", "AA"), 0)])
def test_what_fails_above_the_level_is_shown_and_does_not_fail_the_run(
    tmp_path: Path, options: tuple[str, ...], status: int
) -> None:
    done = run(*options, cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    report = read_report(tmp_path / "r.json")
    entry = report["clauses"]["BN-NORM-1"]["subjects"]["wrong_subjects:hard_only"]
    assert (entry["verdict"], entry["level"], report["level"]) == ("failed", "AAA", ("AAA", *options)[-1])
    assert "A: all, AA: none, AAA: 1 failed" in done.stdout
    assert ("--level AA " in report["command"]) == (status == 0)
    suite = ET.parse(tmp_path / "r.xml").getroot()
    kind = "skipped" if status == 0 else "failure"
    assert [e.get("type") for e in suite.iter(kind)].count("failed") == len(
        [c for c in report["checks"] if c["outcome"] == "failed" and "BN-NORM-1" in c["clauses"]]
    )


def test_a_level_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = run("--level", "B", cwd=tmp_path)
    assert done.returncode == 2
    assert "--level" in done.stderr


# The matrix -------------------------------------------------------------------------------------------------


def rows_of(report: dict[str, Any]) -> list[MatrixRow]:
    return [MatrixRow("numpy", report=report)]


def cells(text: str, first: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip(" |") for cell in line[1:]] for line in lines]


def test_the_matrix_shows_and_counts_by_level() -> None:
    report = merged(rows_of(made(*MIXED)), "bnspec-conformance matrix", 1.0)
    text = page(rows_of(report), report, "bnspec-conformance matrix")
    assert cells(text, "clause") == [["level", "`numpy`"]]
    assert cells(text, "BN-NORM-1") == [["A", "✓"]]
    assert cells(text, "BN-MOM-2") == [["A", "✗ AA"]]
    assert cells(text, "BN-NORM-4") == [["AAA", "◐"]]
    assert cells(text, "**kept**") == [["A", "2/2"], ["AA", "0/1"], ["AAA", "0/3"]]
    assert "- ✗ AA, BN-MOM-2: y is off" in text
    assert text.index("- ✗ AA, BN-MOM-2") < text.index("- ✗ AAA, BN-NORM-3")


def test_the_matrix_takes_results_that_were_stored_without_levels(tmp_path: Path) -> None:
    stored = made(record("passed", "BN-NORM-1"), record("failed", "BN-MOM-9"), record("waived", "BN-NORM-3"))
    for key in ("level", "specification"):
        del stored[key]
    for row in stored["clauses"].values():
        del row["level"]
        for entry in row["subjects"].values():
            del entry["level"]
    (tmp_path / "r.json").write_text(json.dumps(stored))
    old = read_report(tmp_path / "r.json")
    text = page(rows_of(old), old, "bnspec-conformance matrix")
    assert cells(text, "BN-MOM-9") == [["AA", "✗"]]
    assert cells(text, "**kept**") == [["A", "1/1"], ["AA", "0/1"], ["AAA", "0/1"]]
    again = merged(rows_of(old), "bnspec-conformance matrix", 1.0)
    assert page(rows_of(old), again, "m").count("| **kept** |") == 3
    assert specification()["BN-MOM-9"].level == again["clauses"]["BN-MOM-9"]["level"]
