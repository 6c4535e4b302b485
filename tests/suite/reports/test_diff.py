"""Two reports side by side: what counts as a change, what as worse, and how it is told."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnspec_conformance import find_subject
from bnspec_conformance.cli import main
from bnspec_conformance.report import BadReport, document, write_json
from bnspec_conformance.report.compare import Change, compare
from bnspec_conformance.report.pairs import paired
from bnspec_conformance.trials.record import Record, Worst

Report = dict[str, Any]


def make(outcome: str = "passed", share: float | None = 0.25, name: str = "numpy") -> Report:
    """A report of one subject, with a check of BN-RUN-1 and one of BN-RUN-11."""
    worst = None if share is None else Worst(share, share, 1.0, "y", "float32(2,3)")
    violation = {"clauses": ["BN-RUN-1"], "subject": name, "problem": "y is off", "case": None}
    waiver = {"entry": 1, "reason": "known", "applied": [{"entry": 1}]}
    first = Record(
        "test_running::test_exponential",
        ("BN-RUN-1",),
        name,
        outcome,
        0.5,
        worst=worst,
        violation=violation if outcome in ("failed", "waived") else None,
        waiver=waiver if outcome in ("waived", "stale") else None,
    )
    second = Record("test_running::test_extreme_weights", ("BN-RUN-11",), name, "passed", 0.5)
    subjects = {name: find_subject("numpy")}
    content = document([first, second], subjects, seed=0, max_examples=4, seconds=1.0, command="run")
    content["subjects"][0]["name"] = name
    return content


def changed(old: Report, new: Report) -> list[tuple[str, str, bool]]:
    return [(c.kind, c.name or c.subject, c.worse) for c in compare(old, new)]


@pytest.mark.parametrize("outcome", ["passed", "failed", "waived", "not supported", "untested"])
def test_a_report_equals_itself(outcome: str) -> None:
    assert compare(make(outcome), make(outcome)) == []


@pytest.mark.parametrize(
    ("was", "now", "worse"),
    [
        ("passed", "failed", True),
        ("passed", "waived", True),
        ("passed", "not supported", True),
        ("passed", "untested", True),
        ("not supported", "failed", True),
        ("waived", "failed", True),
        ("waived", "not supported", True),
        ("failed", "passed", False),
        ("failed", "waived", False),
        ("failed", "not supported", False),
        ("waived", "passed", False),
        ("not supported", "passed", False),
        ("not supported", "untested", False),
    ],
)
def test_a_verdict_that_changes_is_told_and_judged(was: str, now: str, worse: bool) -> None:
    changes = compare(make(was), make(now))
    assert changes == [Change("verdict", worse, "numpy", "BN-RUN-1", was, now)]


def test_a_clause_that_is_no_longer_looked_at_is_worse() -> None:
    old, new = make(), make()
    new["checks"] = new["checks"][:1]
    del new["clauses"]["BN-RUN-11"]
    assert changed(old, new) == [
        ("check", "test_running::test_extreme_weights", True),
        ("verdict", "BN-RUN-11", True),
    ]
    assert [worse for _, _, worse in changed(new, old)] == [False, False]


def test_a_new_check_that_fails_is_worse() -> None:
    old, new = make("failed"), make("failed")
    old["checks"] = old["checks"][1:]
    assert changed(old, new) == [("check", "test_running::test_exponential", True)]


def test_a_subject_that_is_gone_is_worse_and_a_new_one_is_not() -> None:
    one, two = make(name="numpy"), make(name="torch")
    assert changed(one, two) == [("subject", "numpy", True), ("subject", "torch", False)]


@pytest.mark.parametrize(
    ("was", "now", "found"),
    [(0.25, 0.5, False), (0.25, 0.501, True), (0.5, 0.1, False), (0.0, 0.01, True), (None, 0.5, False)],
)
def test_a_worst_error_that_more_than_doubled_is_told(was: float | None, now: float, found: bool) -> None:
    assert changed(make(share=was), make(share=now)) == [("error", "BN-RUN-1", True)] * found


def test_a_larger_error_of_other_cases_is_no_regression() -> None:
    old, new = make(share=0.1), make(share=0.9)
    new["seed"] = 1
    assert changed(old, new) == [("setting", "seed", False), ("error", "BN-RUN-1", False)]


def test_versions_and_machines_that_differ_are_told() -> None:
    old, new = make(), make()
    new["versions"] = new["versions"] | {"numpy": "9.0", "zzz": "9.1"}
    new["subjects"][0]["version"] = "bnspec 9 on numpy 9.0"
    new["device"] = "H200"
    assert changed(old, new) == [
        ("setting", "device", False),
        ("version", "numpy", False),
        ("version", "zzz", False),
        ("version", "subject", False),
    ]
    assert compare(old, new)[2].old == "-"


def test_a_stale_waiver_is_no_check_but_a_failing_clause() -> None:
    old, new = make(), make()
    entry = new["clauses"]["BN-RUN-1"]["subjects"]["numpy"]
    entry |= {"verdict": "failed", "stale": 1}
    stale = copy.deepcopy(new["checks"][0]) | {"check": "w.toml::entry 1", "outcome": "stale"}
    new["checks"].append(stale | {"waiver": {"entry": 1, "reason": "known", "applied": []}})
    assert changed(old, new) == [("verdict", "BN-RUN-1", True)]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.chdir(tmp_path)

    def write(old: Report, new: Report) -> list[str]:
        write_json("old.json", old)
        write_json("new.json", new)
        return ["diff", "old.json", "new.json"]

    return write


def test_the_command_prints_tables_and_its_status_says_worse(
    files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(files(make(), make("failed"))) == 1
    out = capsys.readouterr().out
    assert "verdicts" in out
    row = next(line for line in out.splitlines() if "BN-RUN-1" in line)
    assert row.split() == ["numpy", "BN-RUN-1", "passed", "failed", "worse"]
    assert "\n1 change, 1 for the worse\n" in out
    assert main(files(make("failed"), make())) == 0
    assert "worse" not in capsys.readouterr().out.replace("0 for the worse", "")
    assert main(files(make(), make())) == 0
    assert capsys.readouterr().out == "no change\n"


def test_the_changes_as_json(files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    words = files(make(share=0.1), make("failed", share=0.9))
    assert main([*words, "--json", "-"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["old"], found["new"], found["worse"]) == ("bnspec-diff/1", "old.json", "new.json", 2)
    assert [c["kind"] for c in found["changes"]] == ["verdict", "error"]
    assert found["changes"][0] == {
        "kind": "verdict",
        "worse": True,
        "subject": "numpy",
        "name": "BN-RUN-1",
        "old": "passed",
        "new": "failed",
    }
    assert main([*words, "--json", "diff.json"]) == 1
    assert json.loads(Path("diff.json").read_text()) == found


def test_what_is_no_report_and_what_cannot_be_written_is_refused(
    files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = files(make(), make())
    assert main([*words, "--json", "no/diff.json"]) == 2
    assert "there is no folder no" in capsys.readouterr().err
    Path("new.json").write_text("{}")
    assert main(words) == 2
    assert "new.json is no report of bnspec-conformance" in capsys.readouterr().err
    assert main(["diff", "gone.json", "old.json"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_subjects_of_different_names_are_compared_as_one(
    files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = files(make(name="numpy"), make("failed", name="my_port:port"))
    assert main([*words, "--pair", "numpy", "my_port:port"]) == 1
    out = capsys.readouterr().out
    assert "1 change, 1 for the worse\n" in out
    assert re.search(r"my_port:port +BN-RUN-1 +passed +failed +worse", out)
    assert main(words) == 1
    assert "other names: --pair numpy my_port:port compares these two" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["nobody", "torch"], "the old report has no subject 'nobody'; it has numpy"),
        (["numpy", "nobody"], "the new report has no subject 'nobody'; it has torch"),
        (["numpy", "torch", "--pair", "numpy", "torch"], "'numpy' is in two pairs"),
    ],
)
def test_pairs_that_do_not_exist_are_refused(
    files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], pairs: list[str], said: str
) -> None:
    assert main([*files(make(), make(name="torch")), "--pair", *pairs]) == 2
    assert said in capsys.readouterr().err


def test_a_pair_may_not_hide_a_subject_of_the_same_name() -> None:
    old = make()
    old["subjects"].append(old["subjects"][0] | {"name": "torch"})
    with pytest.raises(BadReport, match="the old report has a subject 'torch' itself; pair that one too"):
        paired(old, make(name="torch"), [["numpy", "torch"]])
