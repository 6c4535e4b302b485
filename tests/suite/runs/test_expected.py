"""Failures that a report has already do not fail a run; new ones do, and so do those that are gone."""

import copy
import json
import re
from pathlib import Path

import pytest
from suite_command import command

from bnspec_conformance.report import BadReport, read_report
from bnspec_conformance.run.chosen.expected import Expected, expected
from bnspec_conformance.trials.record import Record

CALL = ("run", "narrow_ports:Elementwise", "--clause", "BN-NORM", "--max-examples", "4", "--sizes", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expected")
    assert command(*CALL, "--json", "last.json", cwd=folder).returncode == 1
    return folder


def test_the_same_failures_pass_and_stay_failures_in_the_report(folder: Path) -> None:
    done = command(*CALL, "--expect", "last.json", "--json", "now.json", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the failures are those of last.json" in done.stdout
    before, now = (read_report(folder / name) for name in ("last.json", "now.json"))
    assert [c["outcome"] for c in now["checks"]] == [c["outcome"] for c in before["checks"]]
    assert now["clauses"].keys() == before["clauses"].keys()
    assert "--expect last.json" in now["command"]


def test_a_new_failure_fails_the_run_and_is_named(folder: Path) -> None:
    content = json.loads((folder / "last.json").read_text())
    known = next(c for c in content["checks"] if c["outcome"] == "failed")
    fewer = content | {"checks": [c for c in content["checks"] if c is not known]}
    (folder / "fewer.json").write_text(json.dumps(fewer))
    done = command(*CALL, "--expect", "fewer.json", cwd=folder)
    assert done.returncode == 1
    assert re.search(rf"new failure: elementwise: BN-[A-Z]+-\d+ in {re.escape(known['check'])}", done.stdout)


def test_a_failure_that_is_gone_fails_the_run_and_is_named(folder: Path) -> None:
    content = json.loads((folder / "last.json").read_text())
    passed = next(c for c in content["checks"] if c["outcome"] == "passed")
    known = copy.deepcopy(next(c for c in content["checks"] if c["outcome"] == "failed"))
    known |= {"check": passed["check"], "clauses": passed["clauses"], "booked": {}}
    (folder / "more.json").write_text(json.dumps(content | {"checks": [*content["checks"], known]}))
    done = command(*CALL, "--expect", "more.json", cwd=folder)
    assert done.returncode == 1
    clause = passed["clauses"][0]
    said = f"vanished: elementwise: {clause} in {passed['check']}, expected to fail by more.json: it fails no more"
    assert said in done.stdout
    assert "new failure" not in done.stdout


def broken(check: str, *clauses: str) -> Record:
    violation = {"clauses": list(clauses), "subject": "numpy", "problem": "y is off", "case": None}
    return Record(check, clauses, "numpy", "failed", 0.1, reason="y is off", violation=violation)


def test_a_check_that_breaks_more_than_last_time_is_not_as_expected() -> None:
    before = Expected("r.json", [("numpy", "test_a::test_b", "BN-RUN-1")])
    assert before.covers(broken("test_a::test_b", "BN-RUN-1"))
    assert not before.covers(broken("test_a::test_b", "BN-RUN-1", "BN-RUN-3"))
    assert not before.covers(broken("test_a::test_c", "BN-RUN-1"))
    both = [broken("test_a::test_b", "BN-RUN-1", "BN-RUN-3")]
    assert before.new(both) == ["new failure: numpy: BN-RUN-3 in test_a::test_b"]
    assert before.vanished(both, whole=True) == []


def test_a_check_that_was_not_run_is_judged_only_by_a_run_of_the_whole() -> None:
    before = Expected("r.json", [("numpy", "test_a::test_b", "BN-RUN-1")])
    assert before.vanished([], whole=False) == []
    assert "the suite has no such check any more" in before.vanished([], whole=True)[0]


def test_a_report_that_does_not_say_enough_is_refused(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "last.json").read_text())
    (tmp_path / "cut.json").write_text(json.dumps(content | {"interrupted": True}))
    (tmp_path / "no.json").write_text("[]")
    for name, subject, said in (
        ("cut.json", "elementwise", "did not come to its end"),
        ("no.json", "elementwise", "no.json is no report"),
    ):
        with pytest.raises(BadReport, match=said):
            expected(tmp_path / name, [subject])
    with pytest.raises(BadReport, match="is about elementwise, and not about numpy"):
        expected(folder / "last.json", ["numpy"])
    done = command(*CALL, "--expect", "nothing.json", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
