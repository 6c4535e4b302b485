"""Checks of SPEC.md, "Synchronization": the messages. The checks of its numbers are in test_sync."""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import bnspec
from bnspec import CommunicatorError, Renorm
from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.checks.ranks.recording import RecordingCommunicator, steps
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_DEADLINE = 0.4
#: How much later an error may be seen; for a busy machine, not for the communicator, which needs milliseconds.
_MARGIN = 4.0


class _Absent(Exception):
    """Error of a rank that fails on purpose."""


def failing(t: Trial, what: str, *ranks: Callable[[Any], object], names: tuple[str, ...], who: set[int]) -> None:
    """Require that every rank whose function gets to a collective is told in time, with layers and ranks."""
    __tracebackhide__ = True

    def one(comm: Any) -> tuple[str, float] | None:
        timed = RecordingCommunicator(comm)
        try:
            ranks[comm.rank](timed)
        except CommunicatorError as error:
            return str(error), time.perf_counter() - timed.entered
        return None

    found = t.needs_ranks(len(ranks)).outcomes(len(ranks), one, deadline=_DEADLINE)
    told = {number: each for number, each in enumerate(found) if isinstance(each, tuple)}
    present = {number for number, act in enumerate(ranks) if act not in (absent, gone, raises)}
    t.require(set(told) == present, f"{what}: ranks {sorted(told)} were told, not {sorted(present)}")
    late = max(seconds for _, seconds in told.values())
    t.require(late < _DEADLINE + _MARGIN, f"{what}: it took {late:.1f} s")
    for text, _ in told.values():
        named = {
            int(n) for group in re.findall(r"ranks? (\d+(?:(?:, | and )\d+)*)", text) for n in re.findall(r"\d+", group)
        }
        t.require(who <= named, f"{what}: the error names ranks {sorted(named)}, not {sorted(who)}: {text}")
        for name in names:
            t.require(name in text, f"{what}: the error does not name {name}: {text}")
        t.require("[BN-SYNC-9]" in text, f"{what}: the error does not name its clause: {text}")


def absent(comm: Any) -> None:
    """Come after the deadline."""
    time.sleep(2 * _DEADLINE)


def gone(comm: Any) -> None:
    """Return at once."""


def raises(comm: Any) -> None:
    """Fail before the collective."""
    raise _Absent("out of memory")


@clauses("BN-SYNC-9")
@explore()
def test_mismatch(t: Trial) -> None:
    """Ranks that meet with different layers, channels, groups, dtypes, configurations or operations get an error."""
    backend = t.needs_backend()

    def forward(
        name: str = "conv3/bn", shape: tuple[int, ...] = (4, 3, 2), dtype: str = "float32", **fields: Any
    ) -> Any:
        case = example(config(**fields), [shape])
        x = backend.asarray(case.ranks[0].x.astype(dtype))
        put = {k: None if v is None else backend.asarray(v) for k, v in (("gamma", case.gamma), ("beta", case.beta))}
        bnspec.batch_norm(x, bnspec.Params(**put), case.config)  # what is compiled first is not to take of the deadline

        def act(comm: Any) -> Any:
            return bnspec.batch_norm(x, bnspec.Params(**put), case.config, comm=comm, name=name)

        return act

    usual, two = forward(), forward(virtual_batch_size=2)
    odd = {
        "layers": forward(name="conv4/bn"),
        "channels": forward(shape=(4, 2, 2)),
        "dtypes": forward(dtype=next(n for n in t.subject.scope.dtypes if n not in ("float32", "bfloat16"))),
        "epsilons": forward(epsilon=1e-5),
        "weightings": forward(sync_weighting="rank"),
        "center": forward(center=False),
    }
    for what, other in odd.items():
        names = ("conv3/bn", "conv4/bn") if what == "layers" else ("conv3/bn",)
        failing(t, what, usual, usual, other, names=names, who={0, 1, 2})
    failing(t, "groups", two, forward(shape=(2, 3, 2), virtual_batch_size=2), names=("conv3/bn",), who={0, 1})

    def derive(operation: str) -> Any:
        def act(comm: Any) -> Any:
            _, _, saved = usual(comm)
            if operation == "moments":
                return usual(comm)
            if operation == "gradients":
                return bnspec.batch_norm_vjp(saved.x, saved, comm=comm)
            return bnspec.batch_norm_tangents(saved.x, saved, comm=comm)

        return act

    for first, second in (("gradients", "tangents"), ("moments", "gradients"), ("tangents", "moments")):
        what = f"{first} and {second}"
        failing(t, what, derive(first), derive(second), names=("conv3/bn", first, second), who={0, 1})


@clauses("BN-SYNC-9")
@explore()
def test_missing_rank(t: Trial) -> None:
    """A rank that is late, has returned or has failed is named to every rank that waits."""
    backend = t.needs_backend()
    case = example(config())
    x = backend.asarray(case.ranks[0].x)
    params, _ = bnspec.init(case.config, channels=3, like=x)

    def act(comm: Any) -> Any:
        return bnspec.batch_norm(x, params, case.config, comm=comm, name="conv3/bn")

    for missing in (absent, gone, raises):
        failing(t, missing.__name__, act, missing, act, names=("conv3/bn",), who={1})
    t.require(_after_failure(t, act), "a communicator that failed gave a number afterwards")


def _after_failure(t: Trial, act: Callable[[Any], object]) -> bool:
    def one(comm: Any) -> list[bool]:
        failed: list[bool] = []
        if comm.rank == 0:
            for _ in range(2):
                try:
                    act(comm)
                except CommunicatorError:
                    failed.append(True)
        return failed

    return bool(t.needs_ranks(2).outcomes(2, one, deadline=_DEADLINE)[0] == [True, True])


@clauses("BN-SYNC-10")
@explore()
def test_silence(t: Trial) -> None:
    """Inference, frozen derivatives and state updates send nothing; a training call sends one message."""
    backend = t.needs_backend()
    case = example(config())
    x = backend.asarray(case.ranks[0].x)

    def one(comm: Any) -> tuple[int, ...]:
        seen = RecordingCommunicator(comm)
        layer = bnspec.BatchNorm(axis=1, comm=seen, correction=0, ema_update="internal", name="bn")
        sent = []
        for training in (True, False):
            for call in (layer.train(training), layer.backward):
                call(x)
                sent.append(len(seen.messages))
        assert layer.state is not None and layer.params is not None
        _, saved = bnspec.batch_norm_inference(x, layer.params, layer.state, case.config)
        bnspec.batch_norm_vjp(x, saved, comm=seen)
        bnspec.batch_norm_tangents(x, saved, comm=seen)
        _, stats, _ = bnspec.batch_norm(x, layer.params, case.config)
        bnspec.update_running(layer.state, stats, case.config)
        return (*sent, len(seen.messages))

    for rank, sent in enumerate(t.needs_ranks(2).run(2, one, deadline=5.0)):
        t.require(sent[0] == 1 and sent[1] == 2, f"rank {rank} sent {sent} messages in training")
        t.require(sent[2:] == (2, 2, 2), f"rank {rank} sent {sent} messages: normalization by constants communicates")


@clauses("BN-SYNC-10")
@explore()
def test_one_rank_infers_alone(t: Trial) -> None:
    """A rank may infer, and update its state, while the others are elsewhere."""
    backend = t.needs_backend()
    x = backend.asarray(example(config()).ranks[0].x)

    def one(comm: Any) -> None:
        if comm.rank == 0:
            layer = bnspec.BatchNorm(axis=1, comm=comm, training=False)
            layer(x)
            layer.backward(x)
            assert layer.state is not None and layer.params is not None
            _, stats, _ = bnspec.batch_norm(x, layer.params, config())
            bnspec.update_running(layer.state, stats, config())

    try:
        t.needs_ranks(2).run(2, one, deadline=_DEADLINE)
    except CommunicatorError as error:
        t.require(False, f"inference waits for other ranks: {error}")


def kinds() -> dict[str, Case]:
    """Everything that could tempt a rank to be silent or to send twice."""
    off, some = np.zeros((4, 1, 2), bool), np.ones((4, 1, 1), bool)
    same = [(4, 3, 2)] * 2
    plain = example(config(), same)
    return {
        "plain": plain,
        "no cotangents of statistics": dataclasses.replace(plain, dmean=None, dvar=None),
        "a masked rank": example(config(), same, (off, some)),
        "all masked": example(config(), same, (off, off)),
        "an empty rank": example(config(), [(4, 3, 2), (0, 3, 2)]),
        "nothing": example(config(), [(0, 3, 2)] * 2),
        "no parameters": example(config(center=False, scale=False), same),
        "ghost": example(config(virtual_batch_size=2, ghost_source="sequential"), same),
        "renorm": example(config(renorm=Renorm(rmax=2.0, dmax=3.0)), same),
        "by rank": example(config(sync_weighting="rank"), same),
    }


@clauses("BN-SYNC-11")
@explore()
def test_one_message(t: Trial) -> None:
    """Each layer sends one message per forward pass, per vjp and per jvp, whatever is masked, empty or absent."""
    backend = t.needs_backend()
    for what, case in kinds().items():

        def one(comm: Any, case: Case = case) -> list[tuple[str, str]]:
            seen = RecordingCommunicator(comm)
            for name in ("first", "second"):
                steps(backend, case, seen, name)
            return seen.messages

        wanted = [
            (operation, name) for name in ("first", "second") for operation in ("moments", "gradients", "tangents")
        ]
        try:
            sent = t.needs_ranks(2).run(2, one, deadline=5.0)
        except CommunicatorError as error:
            raise t.broken(f"{what}: a rank sent nothing, or something else: {error}") from error
        for rank, messages in enumerate(sent):
            t.require(messages == wanted, f"{what}: rank {rank} sent {messages}", case)
