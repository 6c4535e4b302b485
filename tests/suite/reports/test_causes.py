"""Failures of one cause are told together, what is not supported is counted, and an error next to 0 is absolute."""

import io
import re
from pathlib import Path
from typing import Any

import pytest

from bnspec._clauses import clauses as specification
from bnspec_conformance import find_subject
from bnspec_conformance.cli import main
from bnspec_conformance.report import document, table, write_html
from bnspec_conformance.report.causes import causes
from bnspec_conformance.trials.record import Record
from bnspec_conformance.trials.violations.violation import difference

Check = dict[str, Any]


def failure(problem: str = "dx is off", clauses: tuple[str, ...] = ("BN-GRAD-1",), **where: Any) -> Record:
    """A failed check; of a number where one is given."""
    name = where.pop("check", "test_gradients::test_vjp")
    violation: dict[str, Any] = {"clauses": list(clauses), "subject": "numpy", "problem": problem, "case": "float32(2)"}
    if "got" in where:
        error = abs(where["got"] - where["expected"])
        given = {"what": "dx", "rank": 0, "index": (0,), "bound": 1e-7, "error": error, "error_ulp": 9.0}
        violation |= given | {"bound_ulp": 1.0} | where
    return Record(name, clauses, "numpy", "failed", 0.1, reason=f"{clauses[0]}: {problem}", violation=violation)


def found(*records: Record) -> list[tuple[str, int]]:
    return [(cause.said, len(cause.checks)) for cause in causes([r.to_json() for r in records])]


def test_words_are_the_same_whatever_numbers_are_in_them() -> None:
    same = [f"raised ValueError: got {n} of {shape} at 0x7f{n}e" for n, shape in ((2, "(3, 4)"), (71, "(5, 6, 7)"))]
    assert found(*map(failure, same)) == [(same[0], 2)]
    assert len(found(failure("raised A: no"), failure("raised B: no"))) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("did not refuse what BN-RUN-4 forbids", "did not refuse what BN-RUN-5 forbids"),
        ("y is float16 and float32", "y is float32 and float16"),
    ],
)
def test_a_clause_or_a_dtype_is_no_number(one: str, other: str) -> None:
    assert len(found(failure(one), failure(other))) == 2


def test_one_factor_is_one_cause_whatever_clauses_break() -> None:
    ones = [
        failure(got=1.01 * v, expected=v, clauses=(c,))
        for v, c in ((1.0, "BN-GRAD-1"), (-3.5, "BN-GRAD-8"), (0.2, "BN-INF-3"))
    ]
    assert found(*ones) == [("dx is off by the factor 1.01", 3)]
    assert causes([r.to_json() for r in ones])[0].clauses == ("BN-INF-3", "BN-GRAD-1", "BN-GRAD-8")


def test_another_factor_output_or_subject_is_another_cause() -> None:
    first = failure(got=1.01, expected=1.0)
    for other in (
        failure(got=1.02, expected=1.0, clauses=("BN-GRAD-8",)),
        failure("y is off", got=1.01, expected=1.0, clauses=("BN-NORM-1",), what="y"),
    ):
        assert len(found(first, other)) == 2
    theirs = failure(got=1.01, expected=1.0)
    theirs.subject = "torch"
    assert len(found(first, theirs)) == 2


def test_a_factor_that_the_bounds_cannot_tell_from_1_says_nothing() -> None:
    one = failure(got=1.0001, expected=1.0, bound=9e-5)
    assert len(found(one, failure(got=1.0001, expected=1.0, bound=9e-5, clauses=("BN-GRAD-8",)))) == 2


def test_the_same_clauses_and_the_same_output_are_one_cause_but_not_with_a_number_that_is_lost() -> None:
    first, other = failure(got=1.0, expected=2.0), failure(got=5.0, expected=1.0)
    assert found(first, other) == [("dx is off", 2)]
    assert len(found(first, failure(got=float("nan"), expected=1.0))) == 2


def test_what_did_not_fail_has_no_cause() -> None:
    assert found(Record("test_a::test_b", ("BN-RUN-1",), "numpy", "passed", 0.1)) == []


@pytest.mark.parametrize(
    ("got", "expected", "said"),
    [
        (0.25, 0.0, "0.25, bound 0.125 (absolute: expected is next to 0)"),
        (0.25, 1e-30, "0.25, bound 0.125 (absolute: expected is next to 0)"),
        (-(2.0**63), 2.0**63, "1.845e+19 ulp, bound 0 ulp"),
        (float("inf"), 1.0, "inf ulp, bound 0 ulp"),
    ],
)
def test_an_error_is_absolute_next_to_zero_only(got: float, expected: float, said: str) -> None:
    error, near = abs(got - expected), abs(expected) < 1
    where = {"got": got, "expected": expected, "error": error, "bound": 0.125 if near else 0.0, "bound_ulp": 0.0}
    assert difference(where | {"error_ulp": 1e44 if near else error}) == said


def test_a_port_that_fails_everywhere_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fails_everywhere.py").write_text(
        "import odd_port\n"
        "class Port(odd_port.Right):\n"
        "    name = 'everywhere'\n"
        "    def run(self, case):\n"
        "        raise RuntimeError(f'no kernel for {case.ranks[0].x.shape}')\n"
    )
    here = Path(__file__).parents[2] / "support" / "subjects"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(here))
        patch.syspath_prepend(str(tmp_path))
        run = ["run", "fails_everywhere:Port", "--clause", "BN-NORM", "--max-examples", "2", "--sizes", "none"]
        assert main(run) == 1
        said = capsys.readouterr().out
    assert said.count("to reproduce it, run:") == 1
    number, causes_told = re.findall(r"(\d+) checks failed, for (\d+) cause", said)[0]
    assert int(number) > 3
    assert causes_told == "1"
    assert re.search(rf"{int(number) - 1} more of this cause \(raised RuntimeError: no kernel for \(", said)


def outside(*clauses: str, subject: str = "numpy", reason: str) -> list[Record]:
    return [Record(f"test_a::test_{c}", (c,), subject, "not supported", 0.0, reason=reason) for c in clauses]


def made(*records: Record) -> dict[str, Any]:
    subjects = {name: find_subject("numpy") for name in dict.fromkeys(r.subject for r in records)}
    content = document(records, subjects, seed=0, max_examples=4, seconds=1.0, command="run")
    for subject, name in zip(content["subjects"], subjects):
        subject["name"] = name
    return content


def test_clauses_that_are_not_supported_are_counted_by_reason_and_listed_on_demand() -> None:
    content = made(
        Record("test_a::test_b", ("BN-RUN-1",), "numpy", "passed", 0.1),
        *outside("BN-SYNC-1", "BN-SYNC-2", reason="it has no sync"),
        *outside("BN-GRP-1", reason="it has no ghost"),
    )
    short, long = io.StringIO(), io.StringIO()
    table(content, short)
    table(content, long, every=True)
    counted = "3 clauses not supported (--all lists them):\n   2  it has no sync\n   1  it has no ghost\n"
    assert counted in short.getvalue()
    assert "BN-SYNC-1" not in short.getvalue()
    assert re.search(r"BN-SYNC-1 +A .* not supported: it has no sync", long.getvalue())
    assert "--all lists" not in long.getvalue()
    for text in (short.getvalue(), long.getvalue()):
        assert f"4 of {len(specification())} clauses looked at: 1 passed, 3 not supported" in text


def test_several_subjects_have_a_row_for_what_one_of_them_supports() -> None:
    content = made(
        Record("test_a::test_b", ("BN-RUN-1",), "numpy", "passed", 0.1),
        *outside("BN-RUN-1", "BN-SYNC-1", subject="torch", reason="it has none"),
        *outside("BN-SYNC-1", reason="it has no ranks"),
    )
    out = io.StringIO()
    table(content, out)
    assert re.search(r"^BN-RUN-1 +A +ok +-", out.getvalue(), re.M)
    assert "BN-SYNC-1" not in out.getvalue()
    assert "torch: 2 clauses not supported (--all lists them):\n   2  it has none\n" in out.getvalue()


def test_the_page_counts_what_is_not_supported_and_lists_causes_as_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    records = [failure(f"raised E: {evil}", check=f"test_a::test_{i}") for i in range(2)]
    write_html(tmp_path / "r.html", made(*records, *outside("BN-SYNC-1", "BN-SYNC-2", reason=evil)))
    text = (tmp_path / "r.html").read_text()
    assert evil not in text
    assert "1 cause of failure" in text
    assert text.count('<tr class="fold" hidden>') == 1
    assert "2 not supported: &lt;img src=x" in text
