"""Ranks with a device each, joined by NCCL: on devices that NumPy and threads emulate, see tests/emulated.

What these tests show is the order of things, the numbers, and that every fault ends in an error that names it. What
CuPy and NCCL themselves do is for a machine that has devices: `bnspec-conformance run nccl`.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mpi_jobs import COMPILED, DEADLINE, EMULATED, MARGIN, STARTING, fault, job, program

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_step_gives_the_numbers_of_mpi_and_does_not_wait(ranks: int) -> None:
    assert program(ranks, "beside_mpi", **EMULATED) == {"same": True, "waits": 0}


def test_neither_captures_nor_collectives_disturb_each_other() -> None:
    assert program(2, "captures", **EMULATED) == {"spoiled": 0}


@pytest.mark.parametrize(("ranks", "steps"), [(2, 90), (3, 48)])
def test_states_stay_the_same_to_the_bit(ranks: int, steps: int) -> None:
    found = program(ranks, "soak", steps, kill=300, **EMULATED)
    assert found == {"different": 1, "steps": steps, "ranks": ranks, "finite": True}


@pytest.mark.parametrize(("ranks", "joined", "number"), [(2, 2, 1), (4, 2, 2), (6, 3, 2)])
def test_several_rounds_give_all_ranks_the_same_bits(ranks: int, joined: int, number: int) -> None:
    """As in worlds of more than 32 ranks, by single messages in groups."""
    found = program(ranks, "rounds", **EMULATED, BNSPEC_TEST_ROUNDS=str(joined))
    assert found["order"] == int("123456"[:ranks])
    assert found["different"] == 1
    assert found["rounds"] == number


@pytest.mark.parametrize("kind", ["mpi", "nccl"])
def test_parts_share_their_own_statistics(kind: str) -> None:
    found = program(3, "parts", **(EMULATED | {"BNSPEC_TEST_RANKS": kind}))
    assert found == {"means": [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], "sizes": [[3, 2], [3, 1], [3, 2]]}


def test_many_communicators_end_as_one_does() -> None:
    """Kept, dropped, parts and failed ones: each that was waited for by itself would take seconds."""
    assert program(4, "many", 20, **EMULATED)["seconds"] < DEADLINE


def test_a_forked_child_has_no_place_among_the_ranks() -> None:
    found = program(2, "forks", **EMULATED)
    assert len(found["told"]) == 5, found
    for told in found["told"]:
        assert "a forked child of" in told
        assert "[BN-SYNC-9]" in told
    assert (found["total"], found["went_on"]) == ([2.0, 2.0], True)


def test_after_the_end_of_mpi_communicators_are_refused() -> None:
    found = program(2, "finalized", **EMULATED)
    assert len(found["told"]) == 4, found
    for told in found["told"]:
        assert "[BN-SYNC-9]" in told
        assert "after MPI.Finalize()" in told or "this communicator is closed" in told
    assert found["same"] == 1


def test_threads_with_streams_and_parts_of_their_own_do_not_mix() -> None:
    assert program(2, "splits", **EMULATED) == {"right": 40, "of": 40}


def test_mpi_takes_device_arrays_through_host_memory() -> None:
    """Beside ranks whose arrays are in host memory."""
    options = EMULATED | {"BNSPEC_TEST_RANKS": "mpi", "BNSPEC_TEST_LIBRARY": "cupy"}
    found = program(3, "libraries", **options)["found"]
    assert [each.split()[0] for each in found] == ["numpy", "cupy", "numpy"]
    assert len({each.split(maxsplit=1)[1] for each in found}) == 1


@pytest.mark.parametrize(
    ("act", "texts"),
    [
        ("order", ["layer ('conv1/bn' from ranks 0, 1 and 'conv2/bn' from rank 2)", "collective 1"]),
        ("skip", ["layer ('conv2/bn' from ranks 0, 2 and 'conv3/bn' from rank 1)", "collective 2"]),
        ("skip_last", ["operation ('moments' from ranks 0, 2 and 'gradients' from rank 1)"]),
        ("channels", ["channels (3 from ranks 0, 2 and 5 from rank 1)"]),
        ("dtype", ["dtype ('float32' from ranks 0, 2 and 'float64' from rank 1)"]),
        ("config", ["options.epsilon (1e-05 from ranks 0, 2 and 0.001 from rank 1)"]),
        ("ghost", ["groups (4 from ranks 0, 2 and 2 from rank 1)"]),
    ],
)
def test_ranks_that_differ_are_told_at_once(tmp_path: Path, act: str, texts: list[Any]) -> None:
    done, _, found = fault(tmp_path, act, **EMULATED)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CollectiveMismatch"
        assert told["seconds"] < DEADLINE
        assert "[BN-SYNC-9]" in told["text"]
        for text in texts:
            assert text in told["text"]
    for again in found["again"].values():
        assert "this communicator failed before: " + found["told"][0]["text"][:40] in again["text"]
    assert done.returncode == 0  # every rank caught it


@pytest.mark.parametrize("mode", ["wait", "garbage"])
def test_known_layers_in_another_order_are_noticed_on_the_device(tmp_path: Path, mode: str) -> None:
    """Whatever NCCL does about messages of different lengths: nobody computes with them, and the ranks are told."""
    done, _, found = fault(tmp_path, "order_known", **EMULATED, EMULATED_NCCL=mode)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    # The hosts were not kept from going on, and what they found there was not a number.
    assert found["value"] == {rank: {"isnan": True} for rank in range(3)}
    for told in found["told"].values():
        assert told["seconds"] < DEADLINE + MARGIN
        assert "conv1/bn'" in told["text"]
        assert told["kind"] == "CollectiveMismatch"


def test_a_rank_that_met_others_elsewhere_lets_later_rounds_notice(tmp_path: Path) -> None:
    """Rank 3 folds what rank 2 sent by mistake; rank 1 hears of it from rank 3 alone, and must not use it."""
    done, _, found = fault(
        tmp_path, "order_known", ranks=4, **EMULATED, EMULATED_NCCL="garbage", BNSPEC_TEST_ROUNDS="2"
    )
    assert sorted(found["told"]) == [0, 1, 2, 3], done.stdout + done.stderr
    assert found["value"] == {rank: {"isnan": True} for rank in range(4)}


@pytest.mark.parametrize(
    ("act", "text"),
    [
        ("raises", "rank 1 raised OSError: no space left while layer 'conv2/bn' (moments, collective"),
        ("returns", "rank 1 ended, while layer 'conv2/bn' (moments, collective"),
        ("finalizes", "rank 1 ended, while layer 'conv2/bn' (moments, collective"),
        ("uncaught", "rank 1 raised OSError: no space left while layer 'conv2/bn' (moments, collective"),
    ],
)
def test_a_rank_that_raises_or_ends_is_named_at_once(tmp_path: Path, act: str, text: str) -> None:
    done, _, found = fault(tmp_path, act, **EMULATED)
    assert sorted(found["told"]) == [0, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CommunicatorError"
        assert text in told["text"]
        assert told["seconds"] < DEADLINE
    assert (done.returncode != 0) == (act == "uncaught")


@pytest.mark.parametrize("act", ["late", "late_last", "late_large"])
def test_a_rank_that_is_late_is_named_and_told(tmp_path: Path, act: str) -> None:
    done, _, found = fault(tmp_path, act, **EMULATED)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for rank, told in found["told"].items():
        assert told["kind"] == "CollectiveTimeout"
        assert f"waited {DEADLINE:g} s" in told["text"]
        assert "and rank 1 did not arrive" in told["text"]
        assert told["seconds"] < (2 * DEADLINE if rank == 1 else 0) + DEADLINE + MARGIN


@pytest.mark.parametrize("pool", ["", "reuse"])
def test_a_host_that_waits_for_its_device_is_freed(tmp_path: Path, pool: str) -> None:
    """And what it finds there is not a number, although the memory may still hold the same layer's last message."""
    done, _, found = fault(tmp_path, "blocked_host", **EMULATED, EMULATED_POOL=pool)
    assert {rank: value["isnan"] for rank, value in found["value"].items()} == {0: True, 2: True}, done.stderr
    assert max(value["seconds"] for value in found["value"].values()) < DEADLINE + MARGIN
    for rank in (0, 2):
        assert found["told"][rank]["kind"] == "CollectiveTimeout"
        assert "and rank 1 did not arrive" in found["told"][rank]["text"]


def test_a_fault_that_no_call_reports_is_reported_at_the_end(tmp_path: Path) -> None:
    done, seconds, found = fault(tmp_path, "unread", **EMULATED)
    assert sorted(found["value"]) == [0, 1, 2]
    assert done.returncode != 0
    assert "rank 1 ended, while layer 'conv2/bn' (moments, collective 4) waited on rank" in done.stderr
    assert seconds < DEADLINE + MARGIN + STARTING


@pytest.mark.parametrize(
    ("act", "text"),
    [
        ("broken_device", "the device of rank 1 failed: DeviceFault: CUDA error 700"),
        ("blind", "rank 1 could not look after its collectives: ZeroDivisionError"),
        ("nccl_raises", ": NCCLFault: "),
    ],
)
def test_what_fails_below_is_told_to_all(tmp_path: Path, act: str, text: str) -> None:
    done, _, found = fault(tmp_path, act, **EMULATED)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CommunicatorError"
        assert text in told["text"]
        assert told["seconds"] < DEADLINE


@pytest.mark.parametrize("pool", ["", "reuse"])
def test_half_a_message_is_no_number(tmp_path: Path, pool: str) -> None:
    """Its header is right, and what stands behind it may be the last message's."""
    done, _, found = fault(tmp_path, "half", **EMULATED, EMULATED_POOL=pool)
    assert found["value"] == {rank: {"isnan": True} for rank in range(3)}, done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CollectiveTimeout"
        assert "NCCL did not finish, with every rank there" in told["text"]


def test_a_host_that_is_stuck_in_a_call_of_nccl_is_freed(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "stuck_in_call", **EMULATED, EMULATED_NCCL_LAZY="1")
    for rank in (0, 2):
        assert found["told"][rank]["kind"] == "CollectiveTimeout", done.stdout + done.stderr
        assert found["told"][rank]["seconds"] < DEADLINE + MARGIN


def test_a_split_that_meets_a_layer_is_noticed(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "split_or_layer", **EMULATED)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert told["kind"] == "CollectiveMismatch"
        assert told["seconds"] < DEADLINE
    for again in found["again"].values():
        assert "failed before" in again["text"]


def test_the_whole_is_closed_where_a_part_fails_in_the_end(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "part_unread", **EMULATED)
    assert sorted(found["told"]) == [0, 1], done.stdout + done.stderr
    for rank, again in found["again"].items():
        assert "rank 2 ended, while layer 'conv1/bn' (moments, collective 2)" in found["told"][rank]["text"]
        assert "this communicator is closed" in again["text"]


def test_a_part_whose_fault_was_handled_spares_the_end_of_the_whole(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "part_handled", **EMULATED)
    assert done.returncode == 0, done.stderr
    assert "told" not in found
    assert sorted(found["part"]) == [0, 1, 2]
    assert found["value"] == {rank: {"finite": True} for rank in range(3)}


def test_communicators_end_in_any_order(tmp_path: Path) -> None:
    """NCCL waits for the other ranks where one ends; nobody waits for that for long."""
    done, seconds, found = fault(tmp_path, "closing", **EMULATED)
    assert done.returncode == 0, done.stderr
    assert found["value"] == {rank: {"let_go": True} for rank in range(3)}
    assert seconds < MARGIN + STARTING


def test_only_the_late_rank_is_named_where_ranks_hear_few_others(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "late_known", ranks=6, **EMULATED, BNSPEC_TEST_ROUNDS="2")
    assert sorted(found["told"]) == [0, 1, 2, 3, 4, 5], done.stdout + done.stderr
    for told in found["told"].values():
        assert "and rank 1 did not arrive" in told["text"]


def test_ranks_that_never_hear_a_rank_directly_are_told_too(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "several_rounds", ranks=6, **EMULATED, BNSPEC_TEST_ROUNDS="2")
    assert sorted(found["told"]) == [0, 2, 3, 4, 5], done.stdout + done.stderr
    for told in found["told"].values():
        assert "rank 1 raised OSError: no space left while layer 'conv2/bn'" in told["text"]


def test_one_communicator_on_two_threads_is_refused(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "two_threads", **EMULATED)
    assert len(found["threads"][0]["texts"]) == 2, done.stdout + done.stderr
    assert all("on two threads at once" in text for text in found["threads"][0]["texts"])
    assert sorted(found["told"]) == [0, 1, 2]


@pytest.mark.parametrize(("act", "text"), [("interrupt", "KeyboardInterrupt"), ("fold_raises", "ZeroDivisionError")])
def test_a_rank_that_is_stopped_inside_a_collective_is_named(tmp_path: Path, act: str, text: str) -> None:
    done, _, found = fault(tmp_path, act, **EMULATED)
    assert sorted(found["told"]) == [0, 1, 2], done.stdout + done.stderr
    for told in found["told"].values():
        assert f"rank 1 raised {text}" in told["text"]
        assert told["seconds"] < DEADLINE + MARGIN


@pytest.mark.parametrize("act", ["killed", "stuck"])
@pytest.mark.parametrize("notices", ["", "1"])
def test_a_job_whose_rank_is_gone_ends_in_time(tmp_path: Path, act: str, notices: str) -> None:
    """Whoever sees it first: the launcher, our deadline, or NCCL, which notices over a network."""
    done, seconds, found = fault(tmp_path, act, **EMULATED, EMULATED_NCCL_NOTICES=notices)
    assert done.returncode != 0
    assert seconds < DEADLINE + MARGIN + STARTING
    for told in found.get("told", {}).values():
        assert told["seconds"] < DEADLINE + MARGIN
    assert act == "killed" or sorted(found["told"]) == [0, 2]


def test_a_nan_shows_on_all_ranks_and_is_no_error(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "nan", **EMULATED)
    assert done.returncode == 0, done.stderr
    assert "told" not in found
    assert {str(v) for v in found["value"].values()} == {str(found["value"][0])}
    assert found["value"][0]["isnan"] == [True, False, False]


def test_a_fault_of_a_part_spares_the_whole(tmp_path: Path) -> None:
    done, _, found = fault(tmp_path, "split", **EMULATED)
    assert done.returncode == 0, done.stderr
    assert sorted(found["part"]) == [0, 2]
    for told in found["part"].values():
        assert told["kind"] == "CollectiveMismatch"
        assert "in the part of ranks 0, 2: " in told["text"]
    assert {str(v["total"]) for v in found["value"].values()} == {"[3.0, 3.0]"}


def test_what_a_device_cannot_send_is_refused() -> None:
    found = program(2, "refused", **EMULATED)
    kinds, texts = zip(*(each.split(": ", 1) for each in found["told"]))
    assert kinds == (*["TypeError"] * 2, *["ValueError"] * 3, *["TypeError"] * 2, "CommunicatorError")
    parts = (
        "is a numpy.ndarray; expected an array of CuPy's",
        "is of int64; expected a floating dtype",
        "is on device 1 while 0 is current; expected device 0",
        "is on device 0 while 1 is current; expected device 0",
        "on a stream that is being captured",
        "color is 1.5",
        "color is True",
        "rank 0 cannot split: this communicator is closed",
    )
    for text, part in zip(texts, parts):
        assert part in text
        assert "[BN-SYNC-9]" in text
    assert found["total"] == [2.0, 2.0]
    assert found["sent"] == 1


def test_ranks_that_have_one_device_are_refused() -> None:
    connect = "import rank_communicators; rank_communicators.Communicator(5.0)"
    done, _ = job(2, "-c", connect, **(EMULATED | {"BNSPEC_TEST_ONE_DEVICE": "1"}))
    assert done.returncode != 0
    assert "ranks 0, 1 have the device" in done.stderr
    assert "expected a device of its own for every rank [BN-SYNC-9]" in done.stderr


def test_a_rank_without_a_device_is_named_to_all() -> None:
    connect = "import rank_communicators; rank_communicators.Communicator(5.0)"
    done, seconds = job(2, "-c", connect, **(EMULATED | {"EMULATED_DEVICES": "0"}))
    assert done.returncode != 0
    assert "rank 0 has no CUDA device" in done.stderr
    assert seconds < 5.0 + STARTING


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_clauses_run_on_devices_and_ranks(tmp_path: Path, ranks: int) -> None:
    """The whole suite, with one rank; what needs several, with three. One report, of the first process."""
    report = tmp_path / "report.json"
    given = ["run", "nccl", "--max-examples", "3", "--json", str(report), *(["--clause", "BN-SYNC"] * (ranks > 1))]
    command = [sys.executable, "-m", "bnspec_conformance", *given, "--ranks", str(ranks)]
    environment = os.environ | (COMPILED if ranks > 1 else EMULATED) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(report.read_text())
    version = content["subjects"][0]["version"]
    assert ("nothing that needs several ranks can be shown" in version) == (ranks == 1)
    verdicts = {clause: entry["subjects"]["nccl"]["verdict"] for clause, entry in content["clauses"].items()}
    if ranks > 1:
        assert verdicts.pop("BN-SYNC-2") == "passed in part"  # it also asks more ranks than there are
        assert set(verdicts.values()) == {"passed"}
    else:
        assert list(verdicts.values()).count("passed") > 80
        assert set(verdicts.values()) <= {"passed", "passed in part", "not supported"}
