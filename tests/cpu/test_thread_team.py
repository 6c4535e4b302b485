"""The threads that share a compiled call: every block once, whoever calls, and no thread is waited for in vain."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from bnspec_backends.cpu.compiled.thread_team import ThreadTeam, each


@numba.njit(nogil=True)
def _count(job: Any, i: Any) -> None:
    seen, work = job
    for _ in range(work):
        seen[i] += 1


@numba.njit(nogil=True)
def count(seen: Any, work: Any, control: Any) -> None:
    each(_count, (seen, work), seen.size, control)


@numba.njit(nogil=True)
def _refuse(job: Any, i: Any) -> None:
    if i == job:
        raise ValueError("no")


@numba.njit(nogil=True)
def refuse(number: Any, which: Any, control: Any) -> None:
    each(_refuse, which, number, control)


@numba.njit(nogil=True)
def _fill(job: Any, i: Any) -> None:
    own, out = job
    out[i] = own[i] + own[i + 1]


@numba.njit(nogil=True)
def fill_from_own_memory(out: Any, control: Any) -> None:
    own = np.arange(out.size + 1)
    each(_fill, (own, out), out.size, control)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("blocks", [0, 1, 2, 7, 1000])
def test_every_block_is_computed_once(threads: int, blocks: int) -> None:
    team = ThreadTeam()
    for work in (1, 1000):
        seen = np.zeros(blocks, np.int64)
        count(seen, work, team.control_block(threads))
        assert (seen == work).all()


def test_what_a_call_allocates_lives_until_its_blocks_are_done() -> None:
    team = ThreadTeam()
    for _ in range(200):
        out = np.zeros(300, np.int64)
        fill_from_own_memory(out, team.control_block(3))
        assert (out == 2 * np.arange(300) + 1).all()


def test_sleeping_helpers_are_woken_and_late_ones_not_waited_for() -> None:
    team = ThreadTeam()
    for pause in (0.0, 0.001, 0.01):
        for _ in range(30):
            seen = np.zeros(16, np.int64)
            count(seen, 20_000, team.control_block(4))
            assert (seen == 20_000).all()
            time.sleep(pause)


def test_a_block_that_fails_is_an_error_of_the_call_and_the_gang_goes_on() -> None:
    team = ThreadTeam()
    for threads in (1, 3):
        with pytest.raises(MemoryError):
            refuse(20, 7, team.control_block(threads))
        refuse(20, 20, team.control_block(threads))
        seen = np.zeros(20, np.int64)
        count(seen, 1, team.control_block(threads))
        assert (seen == 1).all()


def test_many_threads_call_at_once_and_the_number_of_helpers_changes_meanwhile() -> None:
    team, wrong = ThreadTeam(), []

    def work(threads: Any) -> None:
        for n in range(300):
            seen = np.zeros(n % 17, np.int64)
            count(seen, 100, team.control_block(threads))
            if not (seen == 100).all():
                wrong.append(seen)

    crowd = [threading.Thread(target=work, args=(threads,)) for threads in (2, 2, 3, 4)]
    for t in crowd:
        t.start()
    for t in crowd:
        t.join(60)
        assert not t.is_alive()
    assert not wrong


def test_no_thread_but_the_own_one_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_to_start(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    team, seen = ThreadTeam(), np.zeros(20, np.int64)
    for threads in (0, -1):
        count(seen, 1, team.control_block(threads))
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)
    for _ in range(3):
        count(seen, 1, team.control_block(4))
    assert (seen == 5).all()
    assert caplog.text.count("computes in one thread") == 1
    monkeypatch.undo()
    count(seen, 1, team.control_block(2))
    assert (seen == 6).all()


def test_helpers_that_are_replaced_end() -> None:
    def helpers() -> Any:
        return sum(t.name == "bnspec-cpu" for t in threading.enumerate())

    team, before = ThreadTeam(), helpers()
    seen = np.zeros(50, np.int64)
    for threads in (5, 2, 6, 1):
        count(seen, 1000, team.control_block(threads))
    end = time.monotonic() + 20
    while helpers() > before + 5 and time.monotonic() < end:
        time.sleep(0.01)
    assert helpers() == before + 5


def test_a_process_ends_while_helpers_sleep_and_while_they_look_for_news() -> None:
    text = """
        import sys, time
        import numpy as np
        from bnspec_backends import cpu
        import bnspec
        cpu.resources.threads = 4
        x = np.ones((64, 64, 400), np.float32)
        config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
        params, state = bnspec.init(config, channels=64, like=x)
        bnspec.batch_norm(x, params, config)
        time.sleep(float(sys.argv[1]))
    """
    for pause in ("0", "0.2"):
        command = [sys.executable, "-c", textwrap.dedent(text), pause]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
        assert done.returncode == 0, done.stderr
