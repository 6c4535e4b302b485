"""Whatever a subject does ends in a record that says what it did, never in a traceback of ours and never in a hang."""

import dataclasses
from pathlib import Path

import hostile_subjects
import numpy as np
import pytest

from bnspec_conformance import Case, Outcome, find_subject
from bnspec_conformance.cases.scope import PROFILES, Scope
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import SubjectError, complete
from bnspec_conformance.trials import trial
from bnspec_conformance.trials.budget import Budget

FORMULA = "test_normalize::test_formula"
VJP = "test_gradients::test_vjp"


@pytest.mark.parametrize("kind", list(hostile_subjects.KINDS))
def test_each_way_of_misbehaving_is_a_failure_that_names_it(kind: str) -> None:
    subject = complete(hostile_subjects.made(kind), kind)
    words = hostile_subjects.KINDS[kind][1]
    record = attempt(
        all_checks()[VJP if kind == "no dx" else FORMULA],
        subject,
        Budget(3, 0, shrink=False, deadline=0.2 if kind == "sleeps" else 60.0),
    )
    if kind == "right":
        assert record.outcome == "passed", record.reason
        return
    assert record.outcome == "failed", record
    assert words in record.reason
    assert "Traceback" not in record.reason
    assert record.violation is not None
    assert record.violation["script"]
    assert record.violation["drawn"]["kind"] == "case"


def test_a_written_input_is_restored_so_that_the_report_shows_what_was_given() -> None:
    record = attempt(all_checks()[FORMULA], complete(hostile_subjects.made("writes"), "writes"), Budget(3, 0))
    assert record.violation is not None
    shown = record.violation["drawn"]["value"]["ranks"][0]["x"]["data"]
    assert set(shown) - {"A", "="}  # not the zeros that were written


@dataclasses.dataclass
class Part:
    """The NumPy subject, less some of its profiles."""

    scope: Scope
    name: str = "part"
    examples: int = 2

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        outcome = find_subject("numpy").run(case)
        if "statistics" in self.scope:
            return outcome
        absent = dict.fromkeys(("count", "mean", "var", "mean_dot", "var_dot"))
        return Outcome(tuple(dataclasses.replace(rank, **absent) for rank in outcome.ranks))


@pytest.mark.parametrize(
    "profiles",
    [
        {"core"},
        set(PROFILES) - {"statistics", "cotangents", "inference", "sync"},
    ],
    ids=lambda profiles: f"{len(profiles)} profiles",
)
def test_whatever_a_right_subject_lacks_turns_nothing_into_a_failure(profiles: set[str]) -> None:
    scope = Scope(profiles=frozenset(profiles), dtypes=("float32",), axes="first", world=2)
    subject = complete(Part(scope), "part")
    outcomes = []
    for name, check in all_checks().items():
        record = attempt(check, subject, Budget(2, 0, shrink=False))
        assert record.outcome != "failed", f"{name}: {record.reason}"
        outcomes.append(record.outcome)
    assert outcomes.count("passed") > 8


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (object(), "without supports and run"),
        (type("Half", (), {"run": lambda self, case: None})(), "without supports"),
    ],
)
def test_what_is_no_subject_is_refused(made: object, words: str) -> None:
    with pytest.raises(SubjectError, match=words):
        complete(made, "odd")


def test_a_module_that_does_not_import_is_told_without_our_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "wrong.py").write_text("def port(:\n")
    monkeypatch.chdir(tmp_path)
    for name, words in (("torn:port", "nowhere_to_be_found"), ("wrong:port", "SyntaxError"), ("os:nothing", "nothing")):
        with pytest.raises(SubjectError, match=words):
            find_subject(name)


def test_a_scope_of_unknown_profiles_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown profiles \['speed'\]"):
        Scope(profiles=frozenset({"speed"}))
    with pytest.raises(ValueError, match="cotangents without statistics"):
        Scope(profiles=frozenset({"core", "grad", "cotangents"}))


def test_a_check_that_compared_one_value_only_is_untested() -> None:
    """gamma 0 and beta 0 make y zero whatever an implementation does."""
    from bnspec_conformance.trials.explore import clauses, explore

    @clauses("BN-NORM-1")
    @explore()
    def dull(t: trial.Trial) -> None:
        t.same(np.zeros((3, 2)), np.zeros((3, 2)), "y", None)

    assert dull.attempt(find_subject("numpy"), Budget()).outcome == "untested"  # type: ignore[attr-defined]
