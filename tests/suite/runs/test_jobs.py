"""Several processes give the report of one, in its order; one that dies fails its check; failures are run again."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from suite_command import command

from bnspec_conformance.report import BadReport, read_report
from bnspec_conformance.run.chosen.last_failed import last_failed

SMALL = ("--clause", "BN-NORM", "--max-examples", "4", "--sizes", "none")


def without_time(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_time(v) for k, v in value.items() if k not in ("seconds", "date", "command")}
    return [without_time(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of one run in one process, and of the same run in two."""
    folder = tmp_path_factory.mktemp("jobs")
    for jobs in ("1", "2"):
        subjects = ("wrong_subjects:one_pass", "narrow_ports:Elementwise")
        done = command("run", *subjects, *SMALL, "--jobs", jobs, "--json", f"{jobs}.json", cwd=folder)
        assert done.returncode == 1, done.stdout + done.stderr
        (folder / f"{jobs}.txt").write_text(done.stdout)
    return folder


def test_two_processes_give_the_report_of_one(folder: Path) -> None:
    one, two = (read_report(folder / f"{jobs}.json") for jobs in "12")
    assert without_time(one) == without_time(two)
    assert any(c["outcome"] == "failed" for c in one["checks"])
    told = [re.findall(r"^[\w:]+\[.*\]$", (folder / f"{jobs}.txt").read_text(), re.M) for jobs in "12"]
    assert told[0] == told[1] != []


def test_a_process_that_dies_fails_its_check_and_the_others_go_on(tmp_path: Path) -> None:
    done = command("run", "narrow_ports:Dies", *SMALL, "--jobs", "2", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    report = read_report(tmp_path / "r.json")
    assert report["interrupted"] is False
    failed = [c for c in report["checks"] if c["outcome"] == "failed"]
    assert {c["violation"]["problem"] for c in failed} == {"the process that ran the check ended: SIGABRT"}
    assert all("epsilon=0.0" in c["violation"]["case"] for c in failed)
    assert any(c["violation"]["drawn"] for c in failed)
    assert any(c["outcome"] == "passed" for c in report["checks"])
    assert "the process that ran the check ended: SIGABRT" in done.stdout


def test_ranks_that_are_processes_are_not_spread_over_more(tmp_path: Path) -> None:
    done = command("run", "torch-gloo", "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--jobs goes with no subject whose ranks are processes" in done.stderr


def test_the_first_failure_ends_the_run_that_says_what_it_left(tmp_path: Path) -> None:
    done = command("run", "narrow_ports:Elementwise", *SMALL, "-x", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    report = read_report(tmp_path / "r.json")
    assert [c["outcome"] for c in report["checks"]].count("failed") == 1
    assert report["checks"][-1]["outcome"] == "failed"
    assert report["interrupted"] is True
    left = re.escape("not finished: the first failure ended the run, as -x says; ")
    assert re.match(left + r"\d+ of \d+ checks were not run", report["notes"][0])
    assert report["command"].endswith(" -x")


def test_a_failure_that_does_not_count_ends_nothing(tmp_path: Path) -> None:
    done = command("run", "wrong_subjects:hard_only", *SMALL, "-x", "--level", "A", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"AAA: \d failed", done.stdout)
    assert "not finished" not in done.stdout


def test_what_failed_is_run_again_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    first = read_report(folder / "1.json")
    subjects = ("wrong_subjects:one_pass", "narrow_ports:Elementwise")
    words = ("run", *subjects, *SMALL, "--last-failed", str(folder / "1.json"), "--json", "r.json")
    assert command(*words, cwd=tmp_path).returncode == 1
    again = read_report(tmp_path / "r.json")
    failed = [(c["check"], c["subject"]) for c in first["checks"] if c["outcome"] == "failed"]
    assert [(c["check"], c["subject"]) for c in again["checks"]] == failed
    assert again["interrupted"] is False
    assert again["notes"] == []


def test_a_file_with_nothing_to_run_again_is_said_to_have_nothing(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "1.json").read_text())
    content["checks"] = [c for c in content["checks"] if c["outcome"] != "failed"]
    (tmp_path / "r.json").write_text(json.dumps(content))
    done = command("run", "narrow_ports:Elementwise", "--last-failed", "r.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "r.json has no failure of elementwise; there is nothing to run again" in done.stderr


def test_a_file_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "1.json").read_text())
    failed = next(c for c in content["checks"] if c["outcome"] == "failed")
    gone = copy.deepcopy(content)
    gone["checks"].append(failed | {"check": "os::system"})
    (tmp_path / "gone.json").write_text(json.dumps(gone))
    (tmp_path / "no.json").write_text("{}")
    for name, subject, said in (
        ("gone.json", failed["subject"], "the check 'os::system', which this version of the suite does not have"),
        ("no.json", "numpy", "no.json is no report"),
        ("none.json", "numpy", "none.json is no JSON file that can be read"),
    ):
        with pytest.raises(BadReport, match=re.escape(said)):
            last_failed(tmp_path / name, [subject])
    with pytest.raises(BadReport, match="and not about numpy"):
        last_failed(folder / "1.json", ["numpy"])


def test_what_was_running_when_a_run_was_cut_is_run_again(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "1.json").read_text())
    failed = next(c for c in content["checks"] if c["outcome"] == "failed")
    content["checks"] = [c for c in content["checks"] if c["outcome"] != "failed"]
    (tmp_path / "cut.json").write_text(json.dumps(content | {"interrupted": True, "running": failed}))
    assert last_failed(tmp_path / "cut.json", [failed["subject"]]) == {failed["subject"]: {failed["check"]}}
