"""Ranks as MPI processes: what they compute, and that every fault ends in an error that names it, in time."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mpi_jobs import DEADLINE, MARGIN, STARTING, fault, job, program

from bnspec._clauses import clauses
from bnspec_conformance.run.launch import LaunchError, command

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")


@pytest.mark.parametrize(
    ("act", "texts"),
    [
        ("order", ["'conv1/bn'", "'conv2/bn'", "layer ('conv1/bn' from ranks 0, 1 and 'conv2/bn' from rank 2)"]),
        ("skip", ["'conv2/bn'", "'conv3/bn'", "layer ('conv2/bn' from ranks 0, 2 and 'conv3/bn' from rank 1)"]),
        ("skip_last", ["'conv3/bn'", "operation ('moments' from ranks 0, 2 and 'gradients' from rank 1)"]),
        ("channels", ["'conv1/bn'", "channels (3 from ranks 0, 2 and 5 from rank 1)"]),
        ("dtype", ["'conv1/bn'", "dtype ('float32' from ranks 0, 2 and 'float64' from rank 1)"]),
        ("config", ["'conv1/bn'", "options.epsilon (1e-05 from ranks 0, 2 and 0.001 from rank 1)"]),
        ("ghost", ["'conv1/bn'", "groups (4 from ranks 0, 2 and 2 from rank 1)"]),
    ],
)
def test_ranks_that_differ_are_told_at_once(tmp_path: Path, act: str, texts: list[Any]) -> None:
    done, _, found = fault(tmp_path, act)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CollectiveMismatch"
        assert told["seconds"] < DEADLINE  # nobody waits for a deadline
        assert "[BN-SYNC-9]" in told["text"]
        for text in texts:
            assert text in told["text"]
    first = found["told"][0]["text"]
    for again in found["again"].values():
        assert "this communicator failed before" in again["text"]
        assert first[:40] in again["text"]
    assert done.returncode == 0  # every rank caught it


@pytest.mark.parametrize(
    ("act", "text"),
    [
        ("raises", "rank 1 raised OSError: no space left while layer 'conv2/bn' (moments, collective 2) waited"),
        ("returns", "rank 1 ended, while layer 'conv2/bn' (moments, collective 2) waited"),
        ("finalizes", "rank 1 ended, while layer 'conv2/bn' (moments, collective 2) waited"),
        ("uncaught", "rank 1 raised OSError: no space left while layer 'conv2/bn' (moments, collective 2) waited"),
    ],
)
def test_a_rank_that_raises_or_ends_is_named_at_once(tmp_path: Path, act: str, text: str) -> None:
    done, _, found = fault(tmp_path, act)
    assert sorted(found["told"]) == [0, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CommunicatorError"
        assert text in told["text"]
        assert told["seconds"] < DEADLINE
    assert (done.returncode != 0) == (act == "uncaught")


def test_a_rank_that_is_late_is_named_and_told(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "late")
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for rank, told in found["told"].items():
        assert told["kind"] == "CollectiveTimeout"
        assert f"layer 'conv2/bn' (moments, collective 2) waited {DEADLINE:g} s" in told["text"]
        assert "and rank 1 did not arrive" in told["text"]
        assert told["seconds"] < (2 * DEADLINE if rank == 1 else 0) + DEADLINE + MARGIN


@pytest.mark.parametrize("act", ["late_last", "late_large"])
def test_a_late_rank_hears_of_it_in_its_last_collective(tmp_path: Path, act: str) -> None:
    done, _, found = fault(tmp_path, act, ranks=2)
    assert sorted(found["told"]) == [0, 1], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CollectiveTimeout"
        assert "rank 1 did not arrive" in told["text"]
        assert "conv2/bn" in told["text"]


def test_ranks_that_never_hear_a_rank_directly_are_told_too(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "several_rounds", ranks=6, BNSPEC_TEST_ROUNDS="2")
    assert sorted(found["told"]) == [0, 2, 3, 4, 5], done.stdout + done.stderr
    for told in found["told"].values():
        assert "rank 1 raised OSError: no space left while layer 'conv2/bn'" in told["text"]
        assert told["seconds"] < DEADLINE


def test_a_rank_that_ends_is_missed_in_its_parts(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "part_raises")
    assert sorted(found["told"]) == [0, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert "rank 1 raised OSError: no space left while layer 'conv2/bn'" in told["text"]
        assert told["seconds"] < DEADLINE


def test_one_communicator_on_two_threads_is_refused(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "two_threads")
    texts = found["threads"]["0"] if "0" in found["threads"] else found["threads"][0]
    assert len(texts["texts"]) == 2, done.stdout + done.stderr  # the thread that waits is told as well
    assert all("on one thread while it waits on another" in text for text in texts["texts"])
    assert sorted(found["told"]) == [0, 1, 2]


@pytest.mark.parametrize(("act", "text"), [("interrupt", "KeyboardInterrupt"), ("fold_raises", "ZeroDivisionError")])
def test_a_rank_that_is_stopped_inside_a_collective_is_named(tmp_path: Path, act: str, text: str) -> None:
    done, _, found = fault(tmp_path, act)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert f"rank 1 raised {text}" in told["text"]
        assert "[BN-SYNC-9]" in told["text"]
        assert told["seconds"] < DEADLINE + MARGIN


def test_survivors_of_a_killed_rank_are_told(tmp_path: Path) -> None:
    """Where the launcher leaves the job to us, as Open MPI's does if it is told to."""
    said = subprocess.run([command(1, [])[0], "--version"], capture_output=True, text=True, check=False).stdout
    if "OpenRTE" not in said:
        pytest.skip("this launcher ends a job by itself when a process is killed")
    done, _, found = fault(tmp_path, "killed", launcher=["--mca", "orte_abort_on_non_zero_status", "0"])
    assert sorted(found["told"]) == [0, 2], done.stdout + done.stderr
    assert done.returncode != 0
    for told in found["told"].values():
        assert told["kind"] == "CollectiveTimeout"
        assert "rank 1 did not arrive" in told["text"]


@pytest.mark.parametrize("act", ["killed", "stuck"])
def test_a_job_whose_rank_is_gone_ends_in_time(tmp_path: Path, act: str) -> None:
    """Whether the launcher sees it first or our deadline does."""
    done, seconds, found = fault(tmp_path, act)
    assert done.returncode != 0
    assert seconds < DEADLINE + MARGIN + STARTING
    for told in found.get("told", {}).values():
        assert told["kind"] in ("CollectiveTimeout", "CommunicatorError")
        assert told["seconds"] < DEADLINE + MARGIN
        assert "'conv2/bn'" in told["text"]
        assert "rank 1" in told["text"]
    assert act == "killed" or sorted(found["told"]) == [0, 2]


def test_a_nan_shows_on_all_ranks_and_is_no_error(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "nan")
    assert done.returncode == 0, done.stderr
    assert "told" not in found
    assert {str(v) for v in found["value"].values()} == {str(found["value"][0])}
    assert found["value"][0]["isnan"] == [True, False, False]


def test_a_fault_of_a_part_spares_the_whole(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "split")
    assert done.returncode == 0, done.stderr
    assert sorted(found["part"]) == [0, 2]
    for told in found["part"].values():
        assert told["kind"] == "CollectiveMismatch"
        assert "in the part of ranks 0, 2: " in told["text"]
    assert {rank: v["size"] for rank, v in found["value"].items()} == {0: 2, 1: 1, 2: 2}
    assert {str(v["total"]) for v in found["value"].values()} == {"[3.0, 3.0]"}


def test_a_rank_that_makes_no_communicator_is_missed(tmp_path: Path) -> None:
    done, seconds, found = fault(tmp_path, "missing")
    assert done.returncode != 0
    assert seconds < DEADLINE + MARGIN + STARTING
    assert found["told"], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CollectiveTimeout"
        assert told["seconds"] < DEADLINE + MARGIN
        assert "for the others to make their communicator" in told["text"]


@pytest.mark.parametrize(("ranks", "joined", "number"), [(2, 2, 1), (4, 2, 2), (5, 2, 2), (6, 3, 2)])
def test_several_rounds_give_all_ranks_the_same_bits(ranks: int, joined: int, number: int) -> None:
    """As in larger worlds: groups of neighbours, round by round, in the order of the ranks."""
    found = program(ranks, "rounds", BNSPEC_TEST_ROUNDS=str(joined))
    assert found["order"] == int("123456"[:ranks])
    assert found["different"] == 1
    assert found["rounds"] == number
    assert found["parts"] == [int(("135", "246")[rank % 2][: (ranks + 1 - rank % 2) // 2]) for rank in range(ranks)]


@pytest.mark.parametrize(("ranks", "steps"), [(2, 400), (3, 120)])
def test_states_stay_the_same_to_the_bit(ranks: int, steps: int) -> None:
    """Random uneven counts, empty ranks, ghost groups and masks; after each step every state is compared."""
    found = program(ranks, "soak", steps, kill=300)
    assert found == {"different": 1, "steps": steps, "ranks": ranks, "finite": True}


def test_groups_that_are_made_at_once_do_not_mix() -> None:
    found = program(2, "splits")
    assert found == {"right": 40, "of": 40}


def test_many_communicators_end_as_one_does() -> None:
    """Kept, dropped, parts and failed ones: each that was waited for by itself would take seconds."""
    assert program(4, "many", 300)["seconds"] < DEADLINE


def test_a_forked_child_has_no_place_among_the_ranks() -> None:
    found = program(2, "forks")
    assert len(found["told"]) == 5, found
    for told in found["told"]:
        assert "a forked child of" in told
        assert "[BN-SYNC-9]" in told
    assert (found["total"], found["went_on"]) == ([2.0, 2.0], True)


def test_after_the_end_of_mpi_communicators_are_refused() -> None:
    found = program(2, "finalized")
    assert len(found["told"]) == 4, found
    for told in found["told"]:
        assert "[BN-SYNC-9]" in told
        assert "after MPI.Finalize()" in told or "this communicator is closed" in told
    assert found["same"] == 1


def test_what_is_closed_is_given_back() -> None:
    """With the failures of some, and where the caller frees his own; MPI has a few thousand communicators in all."""
    found = program(2, "used_again", 300)
    assert (found["peers"], found["open"]) == (1, 0)
    assert found["groups"] <= 1  # the other rank may still have to say that it left the last one


def test_before_mpi_begins_communicators_are_refused() -> None:
    text = """
import mpi4py
mpi4py.rc.initialize = False
import bnspec, numpy as np
from bnspec_backends.ranks import MPICommunicator
for make in (MPICommunicator, bnspec.BatchNorm(axis=1, sync_statistics="mpi")):
    try:
        make(*([np.ones((2, 3))] if make is not MPICommunicator else []))
    except bnspec.CommunicatorError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("before MPI.Init(); expected MPI to run, in the process that began it [BN-SYNC-9]") == 2


def test_ranks_may_have_different_libraries() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    found = program(3, "libraries")["found"]
    assert [each.split()[0] for each in found] == ["numpy", "torch", "numpy"]
    assert len({each.split(maxsplit=1)[1] for each in found}) == 1


def test_the_clauses_run_on_real_ranks(tmp_path: Path) -> None:
    """One report, of the first process; the options of the run reach all of them."""
    report = tmp_path / "report.json"
    given = ["run", "mpi", "--clause", "BN-SYNC", "--max-examples", "5", "--json", report]
    done, _ = job(3, "-m", "bnspec_conformance", *given, kill=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"11 of {len(clauses())} clauses looked at") == 1
    content = json.loads(report.read_text())
    assert "3 processes" in content["subjects"][0]["version"]
    verdicts = {clause: entry["subjects"]["mpi"]["verdict"] for clause, entry in content["clauses"].items()}
    assert verdicts.pop("BN-SYNC-2") == "passed in part"  # it also asks more ranks than there are
    assert set(verdicts.values()) == {"passed"}


def test_ranks_starts_the_job(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnspec_conformance", "run", "mpi", "--ranks", "2", "--clause", "BN-SYNC-11"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "BNSPEC_CPU_KERNELS": "blocked"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1 of {len(clauses())} clauses looked at: 1 passed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_ranks_is_for_mpi_alone() -> None:
    from bnspec_conformance.cli import main

    assert main(["run", "numpy", "--ranks", "2"]) == 2
    assert main(["run", "mpi", "--ranks", "0"]) == 2


def test_a_launcher_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("BNSPEC_MPIEXEC", raising=False)
    with pytest.raises(LaunchError, match="no mpiexec"):
        command(2, [])
