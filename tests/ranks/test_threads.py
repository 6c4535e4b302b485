"""Ranks as threads: results, every fault, and that none of them hangs. Proves BN-SYNC-2 and BN-SYNC-9."""

import contextvars
import functools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError
from bnspec._protocols import Communicator, Signature
from bnspec_backends.ranks import threads
from bnspec_backends.ranks.threads import ThreadCommunicator, current

#: Longer than anything below may take; a test that reaches it hung.
OUTER = 20.0

SIGNATURE = Signature("moments", "bn1", 3, 1, "float32", '{"decay": 0.9, "epsilon": 1e-05}')


def run(size: int, fn: Any, **options: Any) -> Any:
    """``threads.run`` on a thread of its own, so that a hang fails the test instead of stopping the suite."""
    outcome = []

    def body() -> None:
        try:
            outcome.append((threads.run(size, fn, **options), None))
        except BaseException as error:
            outcome.append((None, error))

    outer = threading.Thread(target=contextvars.copy_context().run, args=(body,), daemon=True)
    outer.start()
    outer.join(OUTER)
    assert outcome, f"threads.run hung for {OUTER} s"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def caught(fn: Any) -> Any:
    """`fn` whose exception is its result: what each rank saw, not only the first of them."""

    @functools.wraps(fn)
    def wrapped(comm: Any, *args: Any) -> Any:
        try:
            return fn(comm, *args)
        except Exception as error:
            return error

    return wrapped


def add(a: Any, b: Any) -> Any:
    return a + b


def summed(comm: Any, layer: str = "bn1", value: float = 1.0, **changes: Any) -> Any:
    return comm.all_reduce(np.full(3, value), add, SIGNATURE._replace(layer=layer, **changes))


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """No rank outlives its test, except where a test lets one go by an event."""
    yield
    left = [thread for thread in threading.enumerate() if thread.name.startswith("bnspec rank")]
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() for thread in left)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_results_come_in_rank_order(size: int) -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        time.sleep(0.01 * (size - comm.rank))
        return comm.rank, comm.size

    assert run(size, body) == [(rank, size) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_payloads_are_folded_from_rank_0_up_to_the_bit(size: int) -> None:
    generator = np.random.default_rng(size)
    payloads = (generator.standard_normal((size, 2, 7)) * 10.0 ** generator.integers(-12, 12, (size, 2, 7))).astype(
        "f4"
    )

    def body(comm: Any) -> Any:
        time.sleep(random.random() * 0.01)  # the last to arrive computes: any rank may be it
        return comm.all_reduce(payloads[comm.rank], add, SIGNATURE)

    for result in run(size, body):
        assert result.dtype == np.float32
        assert result.tobytes() == functools.reduce(add, payloads).tobytes()


def test_order_is_a_left_fold() -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        labels = []

        def combine(a: Any, b: Any) -> Any:
            labels.append((a.tolist(), b.tolist()))
            return np.concatenate([a, b])

        return comm.all_reduce(np.array([comm.rank]), combine, SIGNATURE).tolist(), labels

    results = run(4, body)
    assert [values for values, _ in results] == [[0, 1, 2, 3]] * 4
    assert sorted(len(labels) for _, labels in results) == [0, 0, 0, 3]  # one rank computes
    assert max(labels for _, labels in results) == [([0], [1]), ([0, 1], [2]), ([0, 1, 2], [3])]


@pytest.mark.parametrize("size", [1, 3])
def test_each_rank_gets_an_array_of_its_own(size: int) -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        payload = np.full(5, 1.0)
        first = comm.all_reduce(payload, lambda a, b: a, SIGNATURE)  # a combine that returns an argument as it is
        payload[:] = -1.0
        first[:] = comm.rank
        comm.all_reduce(np.zeros(1), add, SIGNATURE)
        return payload, first

    results = run(size, body)
    arrays = [array for pair in results for array in pair]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    for rank, (payload, first) in enumerate(results):
        assert (payload == -1).all()
        assert (first == rank).all()


def test_overwriting_a_payload_after_the_call_is_safe() -> None:
    def body(comm: Any) -> Any:
        payload, totals = np.empty(3), []
        for step in range(200):
            payload[:] = step + comm.rank
            totals.append(comm.all_reduce(payload, add, SIGNATURE)[0])
            payload[:] = np.nan
        return totals

    assert run(3, body) == [[3 * step + 3 for step in range(200)]] * 3


def test_many_collectives_at_uneven_speeds() -> None:
    def body(comm: Any) -> Any:
        wait = random.Random(comm.rank)
        totals = []
        for step in range(300):
            if wait.random() < 0.1:
                time.sleep(wait.random() * 0.003)
            totals.append(float(summed(comm, f"bn{step % 7}", step * (comm.rank + 1.0))[0]))
        return totals

    assert run(4, body) == [[10.0 * step for step in range(300)]] * 4


def test_zero_dimensional_and_empty_payloads() -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        scalar = comm.all_reduce(np.array(comm.rank + 0.5), add, SIGNATURE)
        empty = comm.all_reduce(np.empty((1, 0), np.float32), add, SIGNATURE)
        return scalar, empty

    for scalar, empty in run(2, body):
        assert type(scalar) is np.ndarray
        assert (scalar.shape, float(scalar)) == ((), 2.0)
        assert (empty.shape, empty.dtype) == ((1, 0), np.float32)


def test_one_ranks_nan_reaches_all() -> None:
    def body(comm: Any) -> Any:
        return comm.all_reduce(np.array([1.0, np.nan if comm.rank == 1 else 1.0]), add, SIGNATURE)

    for result in run(3, body):
        assert result[0] == 3.0
        assert np.isnan(result[1])


@pytest.mark.parametrize("library", ["torch", "jax.numpy", "array_api_strict"])
def test_arrays_of_other_libraries(library: str) -> None:
    xp = pytest.importorskip(library)

    def body(comm: Any) -> Any:
        return comm.all_reduce(xp.asarray([1.0, comm.rank + 1.0]), add, SIGNATURE)

    results = run(3, body)
    assert [[float(value) for value in result] for result in results] == [[3.0, 6.0]] * 3
    assert len({id(result) for result in results}) == 3


def test_the_threads_have_ended_when_run_returns() -> None:
    ranks = []
    for _ in range(100):
        threads.run(3, lambda comm: ranks.append(threading.current_thread()))
        assert not any(thread.is_alive() for thread in ranks[-3:])
    assert all(thread.daemon for thread in ranks)


def test_args_give_each_rank_its_value() -> None:
    assert run(3, lambda comm, value: (comm.rank, value), args="abc") == [(0, "a"), (1, "b"), (2, "c")]


def test_the_callers_context_variables_reach_the_ranks_and_stay_theirs() -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    token = variable.set("caller")

    def body(comm: Any) -> tuple[Any, ...]:
        seen = variable.get()
        variable.set(f"rank {comm.rank}")
        summed(comm)
        return seen, variable.get()

    try:
        assert run(2, body) == [("caller", "rank 0"), ("caller", "rank 1")]
        assert variable.get() == "caller"
    finally:
        variable.reset(token)


def test_current_is_the_ranks_communicator() -> None:
    assert run(3, lambda comm: current() is comm) == [True] * 3
    nested = run(2, lambda comm: (threads.run(2, lambda inner: current() is inner), current() is comm))
    assert nested == [([True, True], True)] * 2


def test_current_outside_says_where_to_call_it() -> None:
    with pytest.raises(RuntimeError) as refused:
        current()
    assert str(refused.value) == (
        "this thread is no rank, so there is no communicator 'threads' here; expected a call inside the function "
        "given to bnspec_backends.ranks.threads.run(size, fn) [BN-SYNC-9]. Call it there, or pass comm=None."
    )


def test_it_is_a_communicator() -> None:
    def body(comm: ThreadCommunicator) -> str:
        protocol: Communicator = comm
        return repr(protocol)

    assert run(2, body) == ["<ThreadCommunicator rank 0 of 2>", "<ThreadCommunicator rank 1 of 2>"]


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1])
def test_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"size is {size}; expected size >= 1 \[BN-SYNC-9\]"):
        threads.run(size, summed)


@pytest.mark.parametrize("deadline", [0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_no_time_is_refused(deadline: float) -> None:
    with pytest.raises(ValueError, match=r"expected a positive, finite number of seconds \[BN-SYNC-9\]"):
        threads.run(1, summed, deadline=deadline)


def test_args_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"args has 2 values for 3 ranks; expected one per rank"):
        threads.run(3, summed, args=[1, 2])


# --- mismatches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"layer": "bn2"}, ["layer ('bn1' from ranks 0, 2 and 'bn2' from rank 1)"]),
        ({"operation": "gradients"}, ["operation ('moments' from ranks 0, 2 and 'gradients' from rank 1)"]),
        (
            {"channels": 4, "dtype": "float16"},
            [
                "channels (3 from ranks 0, 2 and 4 from rank 1)",
                "dtype ('float32' from ranks 0, 2 and 'float16' from rank 1)",
            ],
        ),
        ({"groups": 2}, ["groups (1 from ranks 0, 2 and 2 from rank 1)"]),
        (
            {"options": '{"decay": 0.99, "epsilon": 1e-05, "mask": true}'},
            [
                "options.decay (0.9 from ranks 0, 2 and 0.99 from rank 1)",
                "options.mask (absent from ranks 0, 2 and true from",
            ],
        ),
    ],
)
def test_a_signature_that_differs_is_named_on_every_rank(changes: dict[str, Any], texts: list[Any]) -> None:
    errors = run(3, caught(lambda comm: summed(comm, **changes if comm.rank == 1 else {})))
    assert [type(error) for error in errors] == [CollectiveMismatch] * 3
    assert len({str(error) for error in errors}) == 1
    text = str(errors[0])
    assert "layer 'bn1' (moments, collective 1) from ranks 0, " in text
    assert all(part in text for part in texts), text
    assert "options.epsilon" not in text
    assert "expected the same on every rank [BN-SYNC-9]. Call the same layers in the same order" in text
    assert len({id(error) for error in errors}) == 3


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: np.zeros((1, 3)), "payload shape ((3,) from rank 0 and (1, 3) from rank 1)"),
        (lambda: np.zeros(3, np.float32), "payload dtype (float64 from rank 0 and float32 from rank 1)"),
        (
            lambda: pytest.importorskip("array_api_strict").zeros(3),
            "payload library (numpy from rank 0 and array_api_stri",
        ),
    ],
)
def test_a_payload_that_differs_is_named_on_every_rank(make: Callable[..., Any], text: str) -> None:
    errors = run(2, caught(lambda comm: comm.all_reduce(make() if comm.rank else np.zeros(3), add, SIGNATURE)))
    assert [type(error) for error in errors] == [CollectiveMismatch] * 2
    assert all(text in str(error) for error in errors), str(errors[0])


def test_swapped_layers_name_both() -> None:
    def body(comm: Any) -> None:
        for layer in ("a", "b") if comm.rank == 0 else ("b", "a"):
            summed(comm, layer)

    with pytest.raises(CollectiveMismatch) as mismatch:
        run(2, body)
    assert "layer 'a' (moments, collective 1) from rank 0 and layer 'b' (moments, collective 1) from rank 1" in str(
        mismatch.value
    )
    assert mismatch.value.__notes__[0].endswith("of 2 in bnspec_backends.ranks.threads.run")


# --- missing, failing and returning ranks -----------------------------------------------------------------------------


def test_a_missing_rank_is_named_on_all_that_wait() -> None:
    release = threading.Event()

    def body(comm: Any) -> None:
        if comm.rank == 1:
            release.wait(OUTER)
        else:
            try:
                summed(comm, "bn2" if comm.rank else "bn1")
            finally:
                release.set()

    start = time.monotonic()
    errors = run(3, caught(body), deadline=0.2)
    assert 0.2 <= time.monotonic() - start < 3
    assert [type(error) for error in errors] == [CollectiveTimeout, type(None), CollectiveTimeout]
    assert str(errors[0]) == str(errors[2])
    assert isinstance(errors[0], TimeoutError)
    assert str(errors[0]) == (
        "layer 'bn1' (moments, collective 1) from rank 0 and layer 'bn2' (moments, collective 1) from rank 2 waited up "
        "to 0.2 s, and rank 1 did not arrive; expected every rank within the deadline [BN-SYNC-9]. Find out what rank "
        "1 did instead, or give run a longer deadline."
    )


def test_a_rank_that_comes_after_the_deadline_is_told_so() -> None:
    gone = threading.Event()

    def body(comm: Any) -> None:
        if comm.rank == 1:
            gone.wait(OUTER)
        try:
            summed(comm)
        finally:
            gone.set()

    first, late = run(2, caught(body), deadline=0.1)
    assert type(first) is CollectiveTimeout
    assert type(late) is CommunicatorError
    assert str(first) in str(late)


def test_run_raises_the_timeout_and_not_what_followed() -> None:
    gone = threading.Event()

    def body(comm: Any) -> None:
        if comm.rank == 0:
            gone.wait(OUTER)
        try:
            summed(comm)
        finally:
            gone.set()

    with pytest.raises(CollectiveTimeout) as timeout:
        run(2, body, deadline=0.1)
    assert timeout.value.__notes__ == ["raised on rank 1 of 2 in bnspec_backends.ranks.threads.run"]


def test_a_rank_that_raises_ends_the_wait_of_the_others_at_once() -> None:
    seen = {}

    def body(comm: Any) -> None:
        summed(comm)
        if comm.rank == 2:
            time.sleep(0.1)
            raise KeyError("no such sample")
        try:
            summed(comm, "bn2")
        except CommunicatorError as error:
            seen[comm.rank] = error
            raise

    start = time.monotonic()
    with pytest.raises(KeyError) as original:
        run(3, body, deadline=15)
    assert time.monotonic() - start < 5
    assert original.value.__notes__ == ["raised on rank 2 of 3 in bnspec_backends.ranks.threads.run"]
    assert sorted(seen) == [0, 1]
    for error in seen.values():
        assert type(error) is CommunicatorError
        assert error.__cause__ is original.value
        assert "rank 2 raised KeyError: 'no such sample'" in str(error)
        assert "layer 'bn2' (moments, collective 2) from ranks 0, 1" in str(error)
        assert "[BN-SYNC-9]. Correct the error of rank 2; it is the cause of this one." in str(error)


def test_a_rank_that_returns_early_ends_the_wait_of_the_others_at_once() -> None:
    def body(comm: Any) -> None:
        summed(comm)
        if comm.rank == 1:
            time.sleep(0.2)  # the others wait already
        else:
            summed(comm, "bn2")

    start = time.monotonic()
    with pytest.raises(CommunicatorError) as error:
        run(3, body, deadline=15)
    assert time.monotonic() - start < 5
    assert "rank 1 returned from the function given to run, while layer 'bn2' (moments, collective 2) from" in str(
        error.value
    )


def test_a_collective_after_a_rank_returned_fails_at_once() -> None:
    def body(comm: Any) -> None:
        if comm.rank == 0:
            time.sleep(0.1)
            summed(comm)

    with pytest.raises(CommunicatorError, match=r"rank 1 returned .* from rank 0 waited; expected every rank to take"):
        run(2, body, deadline=15)


def test_a_combine_that_raises_fails_all() -> None:
    def combine(a: Any, b: Any) -> None:
        raise ZeroDivisionError("in combine")

    def body(comm: Any) -> Any:
        return comm.all_reduce(np.zeros(2), combine, SIGNATURE)

    errors = run(3, caught(body))
    assert sorted(type(error).__name__ for error in errors) == ["CommunicatorError"] * 2 + ["ZeroDivisionError"]
    assert all("ZeroDivisionError: in combine" in str(e) for e in errors if isinstance(e, CommunicatorError))
    assert all("while layer 'bn1'" in str(e) for e in errors if isinstance(e, CommunicatorError))
    with pytest.raises(ZeroDivisionError):
        run(3, body)


def test_two_errors_are_both_told() -> None:
    barrier = threading.Barrier(2)

    def body(comm: Any) -> None:
        barrier.wait(OUTER)
        raise ValueError(f"mine is {comm.rank}")

    with pytest.raises(ValueError, match=r"mine is [01]") as first:
        run(2, body)
    rank = int(str(first.value)[-1])
    assert first.value.__notes__ == [
        f"raised on rank {rank} of 2 in bnspec_backends.ranks.threads.run",
        f"rank {1 - rank} raised ValueError: mine is {1 - rank}",
    ]


def test_system_exit_of_a_rank_reaches_the_caller() -> None:
    def body(comm: Any) -> None:
        if comm.rank == 1:
            raise SystemExit(3)
        summed(comm)

    with pytest.raises(SystemExit) as left:
        run(2, body, deadline=15)
    assert left.value.code == 3


@pytest.mark.parametrize("fault", ["mismatch", "raise", "type"])
def test_a_communicator_that_failed_stays_failed(fault: str) -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        try:
            if fault == "mismatch":
                summed(comm, f"bn{comm.rank}")
            elif comm.rank == 1:
                comm.all_reduce("text" if fault == "type" else np.zeros(1), None, None)
            else:
                summed(comm)
        except Exception as error:
            first = error
        with pytest.raises(CommunicatorError) as again:
            summed(comm, "bn9")
        with pytest.raises(CommunicatorError) as split:
            comm.split(0)
        return first, str(again.value), str(split.value)

    results = run(2, body, deadline=15)
    for rank, (_, again, split) in enumerate(results):
        for text, where in ((again, "layer 'bn9' (moments"), (split, "layer none (split")):
            assert text.startswith(f"rank {rank} cannot enter {where}, collective ")
            first = text.partition("): this communicator failed before: ")[2]
            assert first == str(results[0][0])  # rank 0 has the communicator's own text in each case


def test_one_rank_on_two_threads_is_refused() -> None:
    def body(comm: Any) -> Any:
        if comm.rank == 1:
            time.sleep(0.3)
            return None
        errors = []

        def other() -> None:
            time.sleep(0.1)
            errors.append(caught(summed)(comm, "bn2"))

        thread = threading.Thread(target=other)
        thread.start()
        errors.append(caught(summed)(comm))
        thread.join(OUTER)
        return errors

    for error in run(2, body, deadline=15)[0]:
        assert type(error) is CommunicatorError
        assert "rank 0 entered layer 'bn2' (moments, collective 2) on one thread while it waits on another" in str(
            error
        )


def test_a_rank_that_does_not_end_is_left_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_GRACE", 0.1)
    release = threading.Event()

    def body(comm: Any) -> None:
        if comm.rank == 0:
            raise ValueError("first")
        release.wait(OUTER)

    try:
        with pytest.raises(ValueError, match="first") as error:
            run(2, body, deadline=0.1)
        assert error.value.__notes__[1:] == ["rank 1 still ran 0.2 s later and was left behind"]
    finally:
        release.set()


def test_a_system_without_threads_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    begun: list[Any] = []

    def limited(thread: Any) -> None:
        if thread.name.startswith("bnspec rank"):
            if begun:
                raise RuntimeError("can't start new thread")
            begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(3, summed, deadline=15)


def test_an_interrupted_caller_ends_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    seen = []

    def body(comm: Any) -> None:
        if comm.rank == 0:
            waiting.set()
            try:
                summed(comm)
            except CommunicatorError as error:
                seen.append(str(error))
        else:
            waiting.wait(OUTER)
            time.sleep(0.2)

    class Interrupted(threading.Condition):
        def wait_for(self, predicate: Any, timeout: float | None = None) -> Any:
            if threading.current_thread() is caller:
                waiting.wait(OUTER)
                time.sleep(0.05)
                raise KeyboardInterrupt
            return super().wait_for(predicate, timeout)

    caller = threading.current_thread()
    monkeypatch.setattr("bnspec_backends.ranks.threads.threading.Condition", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.run(2, body, deadline=15)
    monkeypatch.undo()
    for thread in threading.enumerate():
        if thread.name.startswith("bnspec rank"):
            thread.join(OUTER)
    assert len(seen) == 1
    assert "the caller of run ended with KeyboardInterrupt" in seen[0]


# --- payloads that cannot be exchanged --------------------------------------------------------------------------------


def test_a_payload_that_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError) as error:
        run(2, lambda comm: comm.all_reduce([1.0, 2.0], add, SIGNATURE))
    assert str(error.value).startswith("the payload of layer 'bn1' is a list; expected an array that holds values")


def test_a_jax_tracer_is_refused() -> None:
    jax = pytest.importorskip("jax")

    def body(comm: Any) -> Any:
        return jax.jit(lambda x: comm.all_reduce(x, add, SIGNATURE))(jax.numpy.ones(3))

    with pytest.raises(TypeError, match=r"is a \w*Tracer; expected an array that holds values.*Under jax.jit"):
        run(2, body)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_split_groups_equal_colours_in_rank_order() -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        part = comm.split("odd" if comm.rank % 2 else "even")
        members = part.all_reduce(np.array([comm.rank]), lambda a, b: np.concatenate([a, b]), SIGNATURE)
        total = summed(comm)
        return part.rank, part.size, members.tolist(), float(total[0]), current() is comm

    assert run(4, body) == [
        (0, 2, [0, 2], 4.0, True),
        (0, 2, [1, 3], 4.0, True),
        (1, 2, [0, 2], 4.0, True),
        (1, 2, [1, 3], 4.0, True),
    ]


def test_parts_do_not_wait_for_each_other_and_split_again() -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        part = comm.split(comm.rank // 2)
        totals = [float(summed(part, value=step)[0]) for step in range(50 * (part.size + comm.rank // 2))]
        alone = part.split(part.rank)
        return len(totals), totals[-1] == 2 * len(totals) - 2, alone.size, float(summed(alone, value=7.0)[0])

    assert run(4, body) == [(100, True, 1, 7.0)] * 2 + [(150, True, 1, 7.0)] * 2


def test_a_fault_of_a_part_names_the_ranks_of_run_and_spares_the_rest() -> None:
    def body(comm: Any) -> tuple[Any, ...]:
        part = comm.split(comm.rank // 2)
        outcome = caught(summed)(part, f"bn{comm.rank}" if comm.rank >= 2 else "bn")
        return outcome, summed(comm)[0]

    results = run(4, body)
    assert [total for _, total in results] == [4.0] * 4
    assert [type(outcome) for outcome, _ in results] == [np.ndarray] * 2 + [CollectiveMismatch] * 2
    assert str(results[3][0]).startswith(
        "in the part of ranks 2, 3: the ranks met in one collective with layer 'bn2' ("
    )
    assert "'bn2' from rank 2 and 'bn3' from rank 3" in str(results[3][0])


def test_a_rank_that_raises_fails_its_parts_too() -> None:
    def body(comm: Any) -> Any:
        part = comm.split(comm.rank % 2)
        if comm.rank == 3:
            raise ValueError("boom")
        return summed(part)

    errors = {}

    def noting(comm: Any) -> Any:
        try:
            return body(comm)
        except CommunicatorError as error:
            errors[comm.rank] = str(error)
            raise

    with pytest.raises(ValueError, match="boom"):
        run(4, noting, deadline=15)
    assert list(errors) == [1]
    assert "in the part of ranks 1, 3: rank 3 raised ValueError: boom" in errors[1]


def test_split_against_all_reduce_is_a_mismatch() -> None:
    def body(comm: Any) -> Any:
        return comm.split(0) if comm.rank else summed(comm)

    errors = run(2, caught(body))
    assert [type(error) for error in errors] == [CollectiveMismatch] * 2
    assert "operation ('moments' from rank 0 and 'split' from rank 1), layer ('bn1' from rank 0" in str(errors[0])
    assert "channels" not in str(errors[0])


def test_a_colour_must_be_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        run(2, lambda comm: comm.split([]))


# --- forked children --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_a_forked_child_has_no_place_among_the_ranks(pause: float) -> None:
    """Whether or not the other rank waits where it is forked; in a program of its own, since it forks in a thread."""
    text = f"""
import os, sys, time
import numpy as np
from bnspec import CommunicatorError, Signature
from bnspec_backends.ranks import threads
about = Signature("moments", "bn1", 3, 1, "float32", "{{}}")
def summed(comm):
    return comm.all_reduce(np.ones(3), lambda a, b: a + b, about).tolist()
def refused(call):
    try:
        call()
    except CommunicatorError as error:
        return "a forked child of it" in str(error) and "[BN-SYNC-9]" in str(error)
    return False
def body(comm):
    part, status = comm.split(0), 0
    if comm.rank == 0:
        time.sleep({pause})
        child = os.fork()
        if child == 0:
            calls = [lambda: summed(comm), lambda: summed(part), lambda: comm.split(0)]
            calls.append(lambda: summed(threads.current()))
            os._exit(0 if all(map(refused, calls)) else 9)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, summed(comm), summed(part)
print(threads.run(2, body) == [(0, [2.0] * 3, [2.0] * 3)] * 2)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=OUTER, check=False)
    assert done.stdout == "True\n", done.stdout + done.stderr
