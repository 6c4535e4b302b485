"""A run that is cut keeps what was found, says that it is not finished, and names a case that can be run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import junitparser
import pytest

from bnspec_conformance import Case, find_subject
from bnspec_conformance.cli import main
from bnspec_conformance.report import Live, document, read_failures, read_report, write_json
from bnspec_conformance.report.files.atomic_write import write_bytes, write_text
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.listeners import listening, notify_argument, notify_case
from bnspec_conformance.trials.record import Record

HERE = Path(__file__).parents[2] / "support" / "subjects"

# What the subject does with a case of four samples; the checks before it have passed by then.
SUBJECT = """
import ctypes, os, time
import odd_port

class Port(odd_port.Right):
    name = "cut"
    examples = 4

    def run(self, case):
        if len(case.ranks[0].x) == 4 and not case.note:
            open("there", "w").close()
            {act}
        return super().run(case)
"""
OUTPUTS = ("--json", "r.json", "--junit", "r.xml", "--html", "r.html", "--failures", "failures")
RUN = ("run", "cut:Port", "--clause", "BN-NORM", "--clause", "BN-GRP-3", "--max-examples", "4", "--sizes", "none")


def start(folder: Path, act: str, *more: str) -> "subprocess.Popen[str]":
    (folder / "cut.py").write_text(SUBJECT.format(act=act))
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "bnspec_conformance", *RUN, *OUTPUTS, *more],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_cut(folder: Path) -> dict[str, Any]:
    """The report, which must say that it is one of a run that was cut, as every other file must."""
    report = read_report(folder / "r.json")
    assert report["interrupted"] is True
    assert any(note.startswith("not finished") for note in report["notes"])
    assert "not finished" in (folder / "r.html").read_text()
    suites = junitparser.JUnitXml.fromfile(str(folder / "r.xml"))
    assert suites.errors == 1
    assert report["checks"]  # what came before
    running = report["running"]
    assert running["check"].startswith("test_")
    assert running["violation"]["case"].startswith("float32(4,")
    given = read_failures(folder / "failures" / "running.json")
    assert [r.check for r in given.records] == [running["check"]]
    assert given.records[0].violation == running["violation"]
    assert not list(folder.glob(".*"))
    return report


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_a_run_that_writes_what_it_found(number: signal.Signals, tmp_path: Path) -> None:
    run = start(tmp_path, "time.sleep(300)")
    wait_for(tmp_path / "there")
    run.send_signal(number)
    said, errors = run.communicate(timeout=120)
    assert run.returncode == 128 + number
    assert "Traceback" not in said + errors
    report = is_cut(tmp_path)
    words = f"not finished: {number.name} ended the run, in {report['running']['check']} on cut, at the case float32(4,"
    assert words in said
    assert words in report["notes"][0]
    assert "bnspec-conformance replay failures/running.json --subject cut:Port" in said
    assert "clauses looked at" in said


def test_code_that_swallows_the_signal_is_not_asked_again(tmp_path: Path) -> None:
    run = start(tmp_path, "try: time.sleep(300)\n            except BaseException: pass")
    wait_for(tmp_path / "there")
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM
    assert "not finished: SIGTERM ended the run" in said
    assert read_report(tmp_path / "r.json")["interrupted"] is True


def test_compiled_code_that_does_not_return_is_left(tmp_path: Path) -> None:
    stuck = "[ctypes.CDLL(None).pause() for _ in range(9)]"  # the listener's thread gets the signal
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); {stuck}"
    run = start(tmp_path, blocked)
    wait_for(tmp_path / "there")
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM
    assert "not finished: SIGTERM came, and the case that is running did not let go" in errors
    is_cut(tmp_path)


@pytest.mark.parametrize("act", ["os.abort()", "ctypes.string_at(0)", "os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_a_crash_leaves_what_was_found_before(act: str, tmp_path: Path) -> None:
    run = start(tmp_path, act)
    run.communicate(timeout=120)
    report = is_cut(tmp_path)
    assert "its process was ended from outside" in report["notes"][0]


@pytest.mark.parametrize("act", ["os.abort()", "os._exit(0)", "time.sleep(300)"])
def test_an_isolated_subject_fails_its_case_and_the_run_goes_on(act: str, tmp_path: Path) -> None:
    run = start(tmp_path, act, "--isolate", "--deadline", "2", "--no-shrink")
    said, errors = run.communicate(timeout=300)
    assert run.returncode == 1, said + errors
    report = read_report(tmp_path / "r.json")
    assert (report["interrupted"], report["running"]) == (False, None)
    assert not (tmp_path / "failures" / "running.json").exists()
    outcomes = {c["check"]: c["outcome"] for c in report["checks"]}
    assert set(outcomes.values()) >= {"failed", "passed"}
    words = {"os.abort()": "killed by SIGABRT", "os._exit(0)": "ended with exit status 0"}
    # On the screen those of one cause are told by the simplest, which need not be the first that had all of the time.
    assert any(words.get(act, "gave no answer within 2 s") in check["reason"] for check in report["checks"])
    assert words.get(act, "gave no answer within ") in said
    assert [s["asked"] for s in report["subjects"]] == ["cut:Port"]
    assert (report["subjects"][0]["name"], report["subjects"][0]["version"]) == ("cut", "odd 1.0")


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            time.sleep(0.3)
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


# A subject in a process of its own ------------------------------------------------------------------------------


def test_a_process_of_its_own_changes_no_result() -> None:
    name = "bnspec_conformance.subjects.own.backends:numpy_specification"
    there, here = find_subject(name, isolate=True), find_subject(name)
    assert there.scope == here.scope
    assert (there.name, there.arithmetic, there.dialect) == (here.name, here.arithmetic, here.dialect)
    for check in ("test_normalize::test_formula", "test_sync::test_whole_batch"):
        one, other = (attempt(all_checks()[check], s, Budget(3, 0)) for s in (there, here))
        assert one.outcome == other.outcome == "passed"
        assert one.worst == other.worst is not None


@pytest.mark.parametrize("kind", ["writes", "aliases", "raises", "exits", "no y", "a list", "text", "NaN"])
def test_misbehaviour_is_told_as_it_is_without_a_pipe(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import hostile_subjects

    monkeypatch.syspath_prepend(HERE)
    subject = find_subject(f"isolated_hostile_subjects:{kind.replace(' ', '_')}", isolate=True)
    record = attempt(all_checks()["test_normalize::test_formula"], subject, Budget(2, 0, shrink=False))
    assert record.outcome == "failed"
    words = hostile_subjects.KINDS[kind][1].removeprefix("raised ").replace("wrote to the array x", "wrote to an array")
    assert words in record.reason


# Files --------------------------------------------------------------------------------------------------------


def test_a_file_is_whole_at_every_moment_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    write_text(tmp_path / "link", "new \udc80")
    assert path.read_text() == "new \\udc80"
    assert (tmp_path / "link").is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "no" / "r.json", "")
    assert caught.value.filename == str(tmp_path / "no" / "r.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "r.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_told_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes("/dev/full", b"x")
    assert caught.value.filename == "/dev/full"
    write_json(tmp_path / "r.json", document([], {}, seed=0, max_examples=1, seconds=0.0, command="run"))
    assert main(["diff", str(tmp_path / "r.json"), str(tmp_path / "r.json"), "--json", "/dev/full"]) == 2
    assert "/dev/full: No space left on device" in capsys.readouterr().err


def test_two_runs_to_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    contents = [document([], {}, seed=seed, max_examples=1, seconds=0.0, command="run") for seed in (1, 2)]
    lives = [Live(tmp_path / "r.json", None, lambda subject: {}) for _ in contents]
    write: Callable[[int], None] = lambda i: lives[i].write(tmp_path / "r.json", contents[i])  # noqa: E731
    for turn in range(6):
        write(turn % 2)
        lives[(turn + 1) % 2].begin("test_a::b" + "c" * 50 * turn, ("BN-RUN-1",), "numpy")
        assert read_report(tmp_path / "r.json")["seed"] == turn % 2 + 1
    for live in lives:
        live.end()


def test_what_is_running_is_at_the_end_of_the_report(tmp_path: Path) -> None:
    case = next(iter(read_case()))
    live = Live(tmp_path / "r.json", None, lambda subject: {})
    done = Record("test_running::test_pooled", ("BN-RUN-1",), "numpy", "passed", 0.0)
    live.write(
        tmp_path / "r.json",
        document([done], {}, seed=0, max_examples=1, seconds=0.0, command="run", interrupted=True),
    )
    assert read_report(tmp_path / "r.json")["running"] is None
    live.begin("test_normalize::test_formula", ("BN-NORM-1",), "numpy")
    assert read_report(tmp_path / "r.json")["running"]["violation"]["case"] is None
    with listening(live):
        notify_argument(case)
        notify_case(case)
    found = read_report(tmp_path / "r.json")
    assert (found["running"]["violation"]["case"], found["running"]["violation"]["drawn"]["kind"]) == (
        case.describe(),
        "case",
    )
    live.done()
    live.end()
    assert read_report(tmp_path / "r.json")["running"] is None


def read_case() -> list[Case]:
    from bnspec_conformance.subjects.pipe.conversation import cases

    return list(cases().values())
