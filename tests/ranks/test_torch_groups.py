"""Ranks of torch's process groups, over gloo: what they compute, and that every fault ends in an error that names it.

To start processes that import torch takes seconds, so that one job performs many acts, each with its own communicator.
"""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec._clauses import clauses

pytest.importorskip("torch.distributed")

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch_jobs import DEADLINE, MARGIN, STARTING, torch_faults, torch_job, torch_programs

from bnspec_backends.ranks import TorchCommunicator
from bnspec_backends.ranks.notices import Notice
from bnspec_backends.ranks.torch import devices, world
from bnspec_backends.ranks.torch.board import Board
from bnspec_backends.ranks.torch.start import connected
from bnspec_backends.ranks.waiting import GRACE

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

SIGNATURE = bnspec.Signature("moments", "bn1", 2, 1, "float32", "{}")

DIFFER = {
    "order": ["'conv1/bn'", "'conv2/bn'", "layer ('conv1/bn' from ranks 0, 1 and 'conv2/bn' from rank 2)"],
    "skip": ["'conv2/bn'", "'conv3/bn'", "layer ('conv2/bn' from ranks 0, 2 and 'conv3/bn' from rank 1)"],
    "skip_last": ["'conv3/bn'", "operation ('moments' from ranks 0, 2 and 'gradients' from rank 1)"],
    "channels": ["'conv1/bn'", "channels (3 from ranks 0, 2 and 5 from rank 1)"],
    "dtype": ["'conv1/bn'", "dtype ('float32' from ranks 0, 2 and 'float64' from rank 1)"],
    "config": ["'conv1/bn'", "options.epsilon (1e-05 from ranks 0, 2 and 0.001 from rank 1)"],
    "ghost": ["'conv1/bn'", "groups (4 from ranks 0, 2 and 2 from rank 1)"],
    "split_or_layer": ["'conv2/bn'", "operation ('moments' from ranks 0, 1 and 'split' from rank 2)"],
}
ENDS = {
    "raises": "rank 1 raised OSError: no space left while layer 'conv2/bn' (moments, collective 2) waited",
    "returns": "rank 1 ended, while layer 'conv2/bn' (moments, collective 2) waited",
    "part_raises": "rank 1 raised OSError: no space left while layer 'conv2/bn' (moments, collective 2) waited",
}
LATE = ("late", "late_large")
STOPPED = {"interrupt": "KeyboardInterrupt", "fold_raises": "ZeroDivisionError"}
OTHERS = ("two_threads", "nan", "split")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What three ranks wrote, act by act; every act is a fault, after which the next one begins anew."""
    acts = ",".join([*DIFFER, *ENDS, *LATE, *STOPPED, *OTHERS])
    done, _, found = torch_faults(tmp_path_factory.mktemp("faults"), acts)
    assert done.returncode == 0, done.stdout + done.stderr  # every rank caught every error, and none was left behind
    return found


@pytest.mark.parametrize("act", DIFFER)
def test_ranks_that_differ_are_told_at_once(faults: dict[str, Any], act: str) -> None:
    found = faults[act]
    assert sorted(found["told"]) == [0, 1, 2]
    for told in found["told"].values():
        assert told["kind"] == "CollectiveMismatch"
        assert told["seconds"] < DEADLINE + MARGIN
        assert "[BN-SYNC-9]" in told["text"]
        for text in DIFFER[act]:
            assert text in told["text"]
    first = found["told"][0]["text"]
    for again in found["again"].values():
        assert "this communicator failed before" in again["text"]
        assert first[:40] in again["text"]


@pytest.mark.parametrize("act", ENDS)
def test_a_rank_that_raises_or_ends_is_named(faults: dict[str, Any], act: str) -> None:
    told = faults[act]["told"]
    assert sorted(told) == [0, 2]
    for each in told.values():
        assert each["kind"] == "CommunicatorError"
        assert ENDS[act] in each["text"]
        assert each["seconds"] < DEADLINE + MARGIN


@pytest.mark.parametrize("act", LATE)
def test_a_rank_that_is_late_is_named_and_told(faults: dict[str, Any], act: str) -> None:
    told = faults[act]["told"]
    assert sorted(told) == [0, 1, 2]  # the late one too, also where it is its last collective
    for rank, each in told.items():
        assert each["kind"] == "CollectiveTimeout"
        assert f"layer 'conv2/bn' (moments, collective 2) waited {DEADLINE:g} s" in each["text"]
        assert "and rank 1 did not arrive" in each["text"]
        assert each["seconds"] < (2 * DEADLINE if rank == 1 else 0) + DEADLINE + MARGIN


@pytest.mark.parametrize("act", STOPPED)
def test_a_rank_that_is_stopped_inside_a_collective_is_named(faults: dict[str, Any], act: str) -> None:
    told = faults[act]["told"]
    assert sorted(told) == [0, 1, 2]
    for each in told.values():
        assert f"rank 1 raised {STOPPED[act]}" in each["text"]
        assert "[BN-SYNC-9]" in each["text"]
        assert each["seconds"] < DEADLINE + MARGIN


def test_one_communicator_on_two_threads_is_refused(faults: dict[str, Any]) -> None:
    found = faults["two_threads"]
    assert len(found["threads"][0]["texts"]) == 2  # the thread that waits is told as well
    assert all("on one thread while it waits on another" in text for text in found["threads"][0]["texts"])
    assert sorted(found["told"]) == [0, 1, 2]


def test_a_nan_shows_on_all_ranks_and_is_no_error(faults: dict[str, Any]) -> None:
    found = faults["nan"]
    assert "told" not in found
    assert {str(value) for value in found["value"].values()} == {str(found["value"][0])}
    assert found["value"][0]["isnan"] == [True, False, False]


def test_a_fault_of_a_part_spares_the_whole(faults: dict[str, Any]) -> None:
    found = faults["split"]
    assert sorted(found["part"]) == [0, 2]
    for told in found["part"].values():
        assert told["kind"] == "CollectiveMismatch"
        assert "in the part of ranks 0, 2: " in told["text"]
    assert {rank: value["size"] for rank, value in found["value"].items()} == {0: 2, 1: 1, 2: 2}
    assert {str(value["total"]) for value in found["value"].values()} == {"[3.0, 3.0]"}


@pytest.mark.parametrize("bad", [0, 1])
def test_a_rank_that_ends_by_an_error_nobody_catches_is_named(tmp_path: Path, bad: int) -> None:
    """Of rank 0 the store is the server, so that it stays until the others have read why it ends."""
    done, _, found = torch_faults(tmp_path, "uncaught", BNSPEC_TEST_BAD=str(bad))
    told = found["uncaught"]["told"]
    assert sorted(told) == sorted({0, 1, 2} - {bad}), done.stdout + done.stderr
    for each in told.values():
        assert each["kind"] == "CommunicatorError"
        assert f"rank {bad} raised OSError: no space left while layer 'conv2/bn'" in each["text"]
    assert done.returncode != 0


@pytest.mark.parametrize("bad", [0, 1])
def test_survivors_of_a_killed_rank_are_told(tmp_path: Path, bad: int) -> None:
    """gloo says that a connection is closed; with rank 0 the store is gone as well."""
    done, seconds, found = torch_faults(tmp_path, "killed", BNSPEC_TEST_BAD=str(bad))
    told = found["killed"]["told"]
    assert sorted(told) == sorted({0, 1, 2} - {bad}), done.stdout + done.stderr
    for each in told.values():
        assert each["kind"] == "CommunicatorError"
        assert f"rank {bad} ended without a word" in each["text"]
        assert "layer 'conv2/bn' (moments, collective 2)" in each["text"]
        assert each["seconds"] < DEADLINE + MARGIN
    assert done.returncode != 0
    assert seconds < DEADLINE + 2 * MARGIN + STARTING


def test_a_stuck_rank_is_named_and_no_survivor_is_held_up(tmp_path: Path) -> None:
    done, seconds, found = torch_faults(tmp_path, "stuck")
    told = found["stuck"]["told"]
    assert sorted(told) == [0, 2], done.stdout + done.stderr
    for each in told.values():
        assert each["kind"] == "CollectiveTimeout"
        assert "and rank 1 did not arrive" in each["text"]
        assert each["seconds"] < DEADLINE + MARGIN
    assert done.returncode != 0
    assert seconds < 2 * (DEADLINE + MARGIN) + STARTING


def test_a_rank_that_makes_no_communicator_is_missed(tmp_path: Path) -> None:
    _, _, found = torch_faults(tmp_path, "missing", ranks=2, BNSPEC_TEST_AWAY=str(3 * DEADLINE))
    assert sorted(found["missing"]["told"]) == [0]
    told = found["missing"]["told"][0]
    assert told["kind"] == "CollectiveTimeout"
    assert told["seconds"] < DEADLINE + MARGIN
    assert "for the others to make their communicator, and rank 1 did not; expected" in told["text"]


def test_two_ranks_compute_the_same_to_the_bit() -> None:
    found = torch_programs(2, "soak:40,beside_threads,two_at_once,splits,forks")
    assert found["soak"] == {"different": 1, "steps": 40, "ranks": 2, "finite": True}
    assert found["beside_threads"] == {"same": [True, True], "tensors": 22}  # shards of 4 samples and of none
    assert found["two_at_once"] == {"right": 41, "of": 41}
    assert found["splits"] == {"right": 40, "of": 40}
    told = found["forks"]["told"]
    assert len(told) == 5
    assert all("a forked child of" in each and "[BN-SYNC-9]" in each for each in told)
    assert (found["forks"]["total"], found["forks"]["went_on"]) == ([2.0, 2.0], True)


def test_three_ranks_compute_the_same_to_the_bit() -> None:
    found = torch_programs(3, "soak:30,beside_threads,parts,libraries,subgroup,on_devices,outlives")
    assert found["soak"] == {"different": 1, "steps": 30, "ranks": 3, "finite": True}
    assert found["beside_threads"] == {"same": [True] * 3, "tensors": 22}
    assert found["parts"] == {"means": [[1.0, 1.0]] * 3, "sizes": [[3, 2], [3, 1], [3, 2]]}
    assert [each.split()[0] for each in found["libraries"]["found"]] == ["numpy", "torch", "numpy"]
    assert "rank 0 is not in the group" in found["subgroup"]["told"][0]
    assert found["subgroup"]["places"] == [[], [0, 2], [1, 2]]
    assert found["subgroup"]["totals"] == [0.0, 2.0, 2.0]
    assert found["outlives"] == {"totals": [3.0, 3.0]}
    assert found["on_devices"]["alike"] == [[True, True]] * 3
    assert all("payload shape ((1, 4) from rank 0 and (2, 4) from rank 1" in e for e in found["on_devices"]["told"])


def test_more_ranks_fold_in_the_order_of_rounds() -> None:
    """As MPI's communicator does where there are several rounds."""
    found = torch_programs(3, "rounds", BNSPEC_TEST_ROUNDS="2")["rounds"]
    assert found == {"order": 123, "different": 1, "rounds": 2, "parts": [13, 2, 13]}


@pytest.mark.skipif(importlib.util.find_spec("hypothesis") is None, reason="the suite is not installed")
def test_the_clauses_run_on_real_ranks(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    given = ["run", "torch-gloo", "--clause", "BN-SYNC", "--max-examples", "2", "--json", report]
    given += ["--sizes", "none", "--of-ranks", "2"]
    done, _ = torch_job(2, "-m", "bnspec_conformance", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"11 of {len(clauses())} clauses looked at") == 1  # the first process reports
    content = json.loads(report.read_text())
    assert "gloo of torch" in content["subjects"][0]["version"]
    assert "2 processes" in content["subjects"][0]["version"]
    verdicts = {entry["subjects"]["torch-gloo"]["verdict"] for entry in content["clauses"].values()}
    assert verdicts <= {"passed", "passed in part"}


def test_mpi_alone_in_a_job_of_torch_is_refused() -> None:
    pytest.importorskip("mpi4py")
    text = """
import numpy as np, bnspec
from bnspec_backends.ranks import MPICommunicator
for make in (MPICommunicator, lambda: bnspec.BatchNorm(axis=1, sync_statistics="mpi")(np.ones((2, 3)))):
    try:
        make()
    except bnspec.CommunicatorError as error:
        print(error)
"""
    given = os.environ | {"RANK": "1", "WORLD_SIZE": "4"}
    done = subprocess.run(
        [sys.executable, "-c", text], env=given, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    said = (
        "MPI's world has 1 process, and the environment says RANK=1 and WORLD_SIZE=4, as torchrun sets them; expected "
    )
    said += 'an MPI job of 4 processes [BN-SYNC-9]. Take sync_statistics="torch" or TorchCommunicator(), or start the '
    assert done.stdout == 2 * (said + "program with mpiexec.\n")


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_without_a_process_group_there_is_no_communicator() -> None:
    with pytest.raises(bnspec.CommunicatorError) as caught:
        TorchCommunicator()
    assert str(caught.value) == (
        "torch.distributed has no process group; expected the default group, whose ranks a TorchCommunicator joins "
        "[BN-SYNC-9]. Start the program with torchrun, and call torch.distributed.init_process_group() before the "
        "first layer."
    )
    with pytest.raises(bnspec.CommunicatorError, match="init_process_group"):
        bnspec.BatchNorm(axis=1, sync_statistics="torch", ema_update="internal")(np.ones((2, 3)))


@pytest.mark.usefixtures("alone")
def test_what_is_no_process_group_is_refused() -> None:
    with pytest.raises(TypeError, match=r"group is a builtins.str; expected a torch.distributed.ProcessGroup"):
        TorchCommunicator("gloo")
    with pytest.raises(ValueError, match=r"deadline is 0; expected a positive, finite number"):
        TorchCommunicator(deadline=0)
    group = dist.new_group([0])
    dist.destroy_process_group(group)
    with pytest.raises(bnspec.CommunicatorError, match=r"torch.distributed does not know the group"):
        TorchCommunicator(group)


@pytest.mark.usefixtures("alone")
def test_a_process_group_in_the_place_of_a_communicator_is_refused() -> None:
    x = np.ones((2, 3), "float32")
    said = "comm is a torch.distributed.distributed_c10d.ProcessGroup; expected a bnspec.Communicator or None "
    said += r"[BN-SYNC-9]. Pass comm=bnspec_backends.ranks.TorchCommunicator(group)."
    for call in (
        lambda: bnspec.BatchNorm(axis=1, comm=dist.group.WORLD, name="bn")(x),
        lambda: bnspec.batch_norm(
            x, bnspec.Params(None, None), bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0,
                                                                 center=False, scale=False),
            comm=dist.group.WORLD, name="bn",
        ),
    ):  # fmt: skip
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == f"bn: {said}"


@pytest.mark.usefixtures("alone")
def test_the_communicator_of_a_name_is_that_of_the_group_of_now() -> None:
    first = world()
    assert world() is first is bnspec.get_communicator("torch")
    assert repr(first) == "<TorchCommunicator rank 0 of 1>"
    dist.destroy_process_group()
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    assert world() is not first


@pytest.mark.usefixtures("alone")
def test_a_communicator_that_is_closed_is_refused_and_its_deadline_is_checked() -> None:
    with TorchCommunicator(deadline=20.0) as comm:
        comm.deadline = 30.0
        assert comm.deadline == 30.0
        assert comm.split("all").deadline == 30.0
        with pytest.raises(ValueError, match=r"deadline is -1"):
            comm.deadline = -1
        with pytest.raises(TypeError, match=r"color is 1.5"):
            comm.split(1.5)
        own = np.ones(2)
        joined = comm.all_reduce(own, lambda a, b: a + b, SIGNATURE)
        assert joined.tolist() == [1.0, 1.0]
        assert not np.shares_memory(own, joined)
    with pytest.raises(bnspec.CommunicatorError, match=r"this communicator is closed.*BN-SYNC-9"):
        comm.all_reduce(np.ones(2), lambda a, b: a + b, SIGNATURE)


def test_arrays_in_host_memory_are_refused_where_the_group_has_nccl_only() -> None:
    with pytest.raises(TypeError) as caught:
        devices.carrier(np.ones(2), SIGNATURE, {"cuda": "nccl"})
    assert str(caught.value) == (
        "the payload of layer 'bn1' is a numpy.ndarray on cpu, and the group has nccl for cuda; expected a torch "
        "tensor on a CUDA device [BN-SYNC-9]. Move x to the device, or make the group with "
        'backend="cpu:gloo,cuda:nccl".'
    )
    for backends in ({"cpu": "gloo", "cuda": "gloo"}, {"cpu": "gloo", "cuda": "nccl"}):
        assert devices.carrier(np.ones(2), SIGNATURE, backends) == "host"


class _Silent:
    """Store whose server answers nothing, late, or fails."""

    def __init__(self, answer: Any, store: Any = None) -> None:
        self.check = answer
        if store is not None:
            self.set, self.get, self.add = store.set, store.get, store.add


def test_nobody_waits_for_a_store_that_does_not_answer() -> None:
    never = threading.Event()
    board = Board(_Silent(lambda names: never.wait()))
    begun = time.perf_counter()
    assert board.news() == []
    assert board.unmarked("waits", [0, 1]) == []
    assert time.perf_counter() - begun < 2 * GRACE + MARGIN
    assert board.thread.silent
    assert not board.thread.lost
    never.set()
    failing = Board(_Silent(lambda names: 1 / 0))
    assert failing.news() == []
    assert failing.thread.lost


def test_what_a_late_store_is_told_and_asked_is_not_lost() -> None:
    """torch's server answers nobody while it looks up the name of a process that connects."""
    store, answers = HashStore(), threading.Event()
    late = _Silent(lambda names: answers.wait() and store.check(names), store)
    here, there = Board(late), Board(store)
    there.post(Notice(1, 0, "left", ""))
    assert here.news() == []  # asked in vain
    here.mark("here", 0, 1)  # not waited for
    assert not there.all_marked("here", [0])
    answers.set()
    assert here.all_marked("here", [0], time.perf_counter() + MARGIN)
    assert not here.thread.silent
    assert here.news() == [Notice(1, 0, "left", "")]


def test_ranks_are_connected_however_late_the_store_answers() -> None:
    store, slow = HashStore(), iter([GRACE + 0.5])

    def check(names: list[str]) -> bool:
        time.sleep(next(slow, 0.0))
        return bool(store.check(names))

    late = _Silent(check, store)
    boards = Board(late), Board(store)
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda rank: connected(boards[rank], rank, (0, 1), 30.0), (0, 1)))
        rows = list(pool.map(lambda end: end.gather(np.ones(1, np.uint8), time.perf_counter() + 30.0, bool), ends))
    assert [row.tolist() for row in rows] == [[[1], [1]]] * 2
