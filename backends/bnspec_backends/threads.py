"""Ranks as threads of one process: `run` starts them, `ThreadCommunicator` joins their statistics.

All ranks of a communicator meet at one *hub*. Each deposits what it is about to do and its payload;
the last to arrive compares the deposits, folds the payloads in rank order and hands every rank a copy
of its own. The fold is computed once, so the result is the same to the bit on every rank whatever the
library does [BN-SYNC-2], and nobody leaves before it is done, so a rank may overwrite its payload
as soon as `all_reduce` returns. A fault ends the meeting for everybody at once and for good: a
communicator that failed stays failed, because its ranks no longer agree on where they are.
"""

import contextvars
import functools
import json
import operator
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from array_api_compat import array_namespace, device, is_array_api_obj

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError, refusal
from bnspec._protocols import Signature
from bnspec._types import Array

__all__ = ["ThreadCommunicator", "current", "run"]

T = TypeVar("T")

_CURRENT: contextvars.ContextVar["ThreadCommunicator"] = contextvars.ContextVar("bnspec_thread_communicator")

#: Seconds beyond the deadline that `run` gives the other ranks to end after one failed.
_GRACE = 5.0


def run(size: int, fn: Callable[..., T], *, deadline: float = 60.0, args: Sequence[Any] | None = None) -> list[T]:
    """Call ``fn(comm)`` on `size` threads, the ranks, and return what they return in rank order.

    Parameters
    ----------
    size : int
        Number of ranks, at least 1.
    fn : callable
        ``fn(comm)``, or ``fn(comm, args[comm.rank])`` when `args` is given.
    deadline : float
        Seconds a rank waits for the others in one collective.
    args : sequence of length size, optional
        One value per rank.

    Raises
    ------
    Exception
        The first error that a rank raised by itself, with a note naming the rank. Errors that ranks
        raise only because another failed never hide it.

    Notes
    -----
    Each thread starts with a copy of the caller's context variables, so training contexts reach the
    ranks. What a library keeps per thread (``torch.no_grad``, ``jax.enable_x64``) does not: set it in `fn`.

    The other ranks get ``deadline + 5`` seconds to end after the first error; a thread that runs on is
    left behind as a daemon and named in a note. `fn` itself may take any time as long as no rank fails.

    Examples
    --------
    >>> run(3, lambda comm: comm.rank * 10)
    [0, 10, 20]
    """
    size = operator.index(size)
    if size < 1:
        raise refusal(ValueError, "BN-SYNC-9", got=f"size is {size}", expected="size >= 1", do="Ask for a rank.")
    if not 0 < deadline < threading.TIMEOUT_MAX - _GRACE:
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got=f"deadline is {deadline!r}",
            expected="a positive, finite number of seconds",
            do="Give each collective at least the time by which ranks may differ.",
        )
    if args is not None and len(args) != size:
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got=f"args has {len(args)} values for {size} ranks",
            expected="one per rank",
            do="Rank r gets args[r]; what all ranks share belongs in fn.",
        )
    return _Session(size, deadline).run(fn, args)


def current() -> "ThreadCommunicator":
    """The communicator of the rank whose thread this is; the entry point ``threads`` names it.

    Raises
    ------
    RuntimeError
        This is no thread of `run`.
    """
    try:
        return _CURRENT.get()
    except LookupError:
        raise RuntimeError(
            "this thread is no rank, so there is no communicator 'threads' here; expected a call inside the function "
            "given to bnspec_backends.threads.run(size, fn) [BN-SYNC-9]. Call it there, or pass comm=None."
        ) from None


class ThreadCommunicator:
    """One rank's end of a group of threads, a `bnspec._protocols.Communicator`. `run` makes them.

    Device arrays are read as the library orders them: all ranks use one device and one stream.

    Attributes
    ----------
    rank : int
        This rank, 0 .. size - 1.
    size : int
        Number of ranks.
    """

    def __init__(self, hub: "_Hub", rank: int) -> None:
        self.rank = rank
        self.size = len(hub.members)
        self._hub = hub

    def __repr__(self) -> str:
        """``<ThreadCommunicator rank 0 of 2>``."""
        return f"<ThreadCommunicator rank {self.rank} of {self.size}>"

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Fold the ranks' payloads in rank order; every rank gets a copy of its own, equal to the bit.

        Parameters
        ----------
        payload : array
            The same shape and dtype on every rank. Only read.
        combine : callable
            ``combine(a, b)``, where a holds lower ranks than b.
        signature : Signature
            Must be equal on all ranks.

        Raises
        ------
        CollectiveMismatch
            On every rank, when signatures or payloads differ.
        CollectiveTimeout
            On every rank that waits, when one is missing at the deadline.
        CommunicatorError
            A rank failed or returned, or this communicator failed before.
        TypeError
            The payload is no array with values, for example a tracer of ``jax.jit``.
        """

        def fold(payloads: list[Array]) -> list[Array]:
            total = functools.reduce(combine, payloads)
            xp = array_namespace(total)
            return [xp.asarray(total, copy=True) for _ in payloads]

        return self._hub.meet(self.rank, payload, lambda: _facts(payload, signature), fold)

    def split(self, color: Hashable) -> "ThreadCommunicator":
        """The communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. Faults of the part poison the part; a rank that ends
        fails every communicator it is in. Error texts of a part name its ranks by their numbers in `run`.
        """

        def regroup(colors: list[Hashable]) -> list[ThreadCommunicator]:
            places: dict[Hashable, list[int]] = {}
            for place, each in enumerate(colors):
                places.setdefault(each, []).append(place)
            parts = {each: self._hub.part(group) for each, group in places.items()}
            return [ThreadCommunicator(parts[each], places[each].index(n)) for n, each in enumerate(colors)]

        def facts() -> dict[str, str]:
            hash(color)
            return {"operation": "'split'", "layer": "none"}

        part: ThreadCommunicator = self._hub.meet(self.rank, color, facts, regroup)
        return part


class _Deposit(NamedTuple):
    facts: Mapping[str, str]  # what must be equal on all ranks, as text
    payload: Any


class _Meeting:
    """One collective: who came, and how it ended."""

    def __init__(self) -> None:
        self.deposits: dict[int, _Deposit] = {}
        self.results: list[Any] | None = None


class _Hub:
    """Where the ranks of one communicator meet. `places` count its ranks, `members` are their numbers in `run`."""

    def __init__(self, session: "_Session", members: Sequence[int]) -> None:
        self.session = session
        self.members = tuple(members)
        self.condition = threading.Condition()
        self.meeting = _Meeting()
        self.calls = [0] * len(self.members)  # collectives each rank entered
        self.returned: list[int] = []
        self.error: CommunicatorError | None = None  # the first failure; set once
        self.cause: BaseException | None = None  # what a rank raised, where that was the failure
        session.register(self)

    def part(self, places: Sequence[int]) -> "_Hub":
        return _Hub(self.session, [self.members[place] for place in places])

    def meet(
        self,
        place: int,
        payload: Any,
        describe: Callable[[], dict[str, str]],
        finish: Callable[[list[Any]], list[Any]],
    ) -> Any:
        with self.condition:
            if self.error is not None:
                raise CommunicatorError(
                    f"rank {self.members[place]} cannot use this communicator, which failed before: {self.error}"
                ) from (self.cause or self.error)
            self.calls[place] += 1
            try:
                facts = {"sequence number": str(self.calls[place]), **describe()}
            except Exception as error:
                self._rank_failed(place, error)
                raise
            meeting = self.meeting
            if place in meeting.deposits:
                self._fail(
                    f"rank {self.members[place]} entered {_where(facts)} on one thread while it waits on another",
                    "one collective at a time on each rank",
                    "Give each thread a communicator of its own with split().",
                )
            meeting.deposits[place] = _Deposit(facts, payload)
            if self.returned:
                self._fail_returned()
            elif len(meeting.deposits) == len(self.members):
                self._finish(meeting, place, finish)
            elif not self.condition.wait_for(lambda: meeting.results is not None or self.error, self.session.deadline):
                self._fail_late(meeting)
            if meeting.results is None:
                self._raise()
            return meeting.results[place]

    def leave(self, place: int, error: BaseException | None) -> None:
        """A rank's function ended: those who wait for it now, or will, must not wait for the deadline."""
        with self.condition:
            if error is not None:
                self._rank_failed(place, error)
                return
            self.returned.append(place)
            if self.meeting.deposits:
                self._fail_returned()

    def interrupt(self, error: BaseException) -> None:
        with self.condition:
            self._fail(f"the caller of run ended with {_text(error)}", "it to wait", "Start again.", cause=error)

    # Everything below runs with the condition held. The fold does too: those who wait have nothing else to do.

    def _finish(self, meeting: _Meeting, place: int, finish: Callable[[list[Any]], list[Any]]) -> None:
        deposits = [meeting.deposits[each] for each in range(len(self.members))]
        if differences := self._differences([deposit.facts for deposit in deposits]):
            self._fail(
                f"the ranks met in one collective with {self._layers(meeting)}, and differ in {differences}",
                "the same on every rank",
                "Call the same layers in the same order, with the same options and input dtype, on every rank.",
                kind=CollectiveMismatch,
            )
            return
        try:
            meeting.results = finish([deposit.payload for deposit in deposits])
        except BaseException as error:
            self._rank_failed(place, error)
            raise
        self.meeting = _Meeting()
        self.condition.notify_all()

    def _fail(
        self,
        got: str,
        expected: str,
        do: str,
        kind: type[CommunicatorError] = CommunicatorError,
        cause: BaseException | None = None,
    ) -> None:
        if self.error is None:
            if self.members != self.session.members:
                got = f"in the part of {_ranks(self.members)}: {got}"
            error = refusal(kind, "BN-SYNC-9", got=got, expected=expected, do=do)
            assert isinstance(error, CommunicatorError)
            self.error, self.cause = error, cause
            self.condition.notify_all()

    def _raise(self) -> NoReturn:
        """Raise the failure, a new exception on each rank: a traceback belongs to one thread."""
        assert self.error is not None
        raise type(self.error)(str(self.error)) from self.cause

    def _rank_failed(self, place: int, error: BaseException) -> None:
        waiting = self.meeting.deposits.keys() - {place}
        where = f" while {self._layers(self.meeting)} waited" if waiting else ""
        self._fail(
            f"rank {self.members[place]} raised {_text(error)}{where}",
            "every rank to reach every collective",
            f"Correct the error of rank {self.members[place]}; it is the cause of this one.",
            cause=error,
        )

    def _fail_returned(self) -> None:
        gone = _ranks([self.members[place] for place in self.returned])
        self._fail(
            f"{gone} returned from the function given to run, while {self._layers(self.meeting)} waited",
            "every rank to take part in every collective",
            "Call the layers equally often on every rank; a rank without samples passes an empty batch.",
        )

    def _fail_late(self, meeting: _Meeting) -> None:
        missing = [rank for place, rank in enumerate(self.members) if place not in meeting.deposits]
        self._fail(
            f"{self._layers(meeting)} waited up to {self.session.deadline:g} s, and {_ranks(missing)} did not arrive",
            "every rank within the deadline",
            f"Find out what {_ranks(missing)} did instead, or give run a longer deadline.",
            kind=CollectiveTimeout,
        )

    def _layers(self, meeting: _Meeting) -> str:
        """Who came with what: ``'bn1' (moments, collective 3) from ranks 0 and 2``."""
        groups: dict[str, list[int]] = {}
        for place, deposit in sorted(meeting.deposits.items()):
            groups.setdefault(_where(deposit.facts), []).append(self.members[place])
        return " and ".join(f"{where} from {_ranks(ranks)}" for where, ranks in groups.items())

    def _differences(self, facts: Sequence[Mapping[str, str]]) -> str:
        """Each field that is not the same on all ranks, with the ranks that sent each value; empty when all agree."""
        keys = {key: None for each in facts for key in each}
        if len({each["operation"] for each in facts}) > 1:  # their fields differ by nature
            keys = {key: None for key in keys if all(key in each for each in facts)}
        fields = []
        for key in keys:
            senders: dict[str, list[int]] = {}
            for rank, each in zip(self.members, facts):
                senders.setdefault(each.get(key, "absent"), []).append(rank)
            if len(senders) > 1:
                fields.append(
                    f"{key} ({' and '.join(f'{value} from {_ranks(ranks)}' for value, ranks in senders.items())})"
                )
        return ", ".join(fields)


class _Session:
    """The threads of one `run`: their results, and their errors in the order they were raised."""

    def __init__(self, size: int, deadline: float) -> None:
        self.members = tuple(range(size))
        self.deadline = deadline
        self.condition = threading.Condition()
        self.hubs: weakref.WeakSet[_Hub] = weakref.WeakSet()  # split may be called every step
        self.ended: dict[int, Any] = {}
        self.errors: list[tuple[int, BaseException]] = []

    def register(self, hub: _Hub) -> None:
        with self.condition:
            self.hubs.add(hub)

    def run(self, fn: Callable[..., T], args: Sequence[Any] | None) -> list[T]:
        hub = _Hub(self, self.members)
        threads: dict[int, threading.Thread] = {}
        try:
            for rank in self.members:
                rest = () if args is None else (args[rank],)
                context = contextvars.copy_context()
                work = functools.partial(context.run, self._work, fn, ThreadCommunicator(hub, rank), rest)
                thread = threading.Thread(target=work, name=f"bnspec rank {rank}", daemon=True)
                try:
                    thread.start()
                    threads[rank] = thread
                except RuntimeError as error:  # the system gives no further thread
                    self._leave(rank, None, error)
            with self.condition:
                self.condition.wait_for(lambda: self.errors or len(self.ended) == len(self.members))
                self.condition.wait_for(lambda: len(self.ended) == len(self.members), self.deadline + _GRACE)
        except BaseException as error:  # an interrupt, mostly: ranks that wait must not go on waiting
            for each in self._hubs():
                each.interrupt(error)
            raise
        for rank in threads.keys() & self.ended.keys():
            threads[rank].join()  # it is past its last line of ours
        if self.errors:
            raise self._first()
        return [self.ended[rank] for rank in self.members]

    def _work(self, fn: Callable[..., Any], comm: ThreadCommunicator, rest: tuple[Any, ...]) -> None:
        _CURRENT.set(comm)
        try:
            result = fn(comm, *rest)
        except BaseException as error:
            self._leave(comm.rank, None, error)
        else:
            self._leave(comm.rank, result, None)

    def _leave(self, rank: int, result: Any, error: BaseException | None) -> None:
        if error is not None:
            with self.condition:
                self.errors.append((rank, error))  # before any other rank can fail because of it
        for hub in self._hubs():
            if rank in hub.members:
                hub.leave(hub.members.index(rank), error)
        with self.condition:
            self.ended[rank] = result
            self.condition.notify_all()

    def _hubs(self) -> list[_Hub]:
        with self.condition:
            return list(self.hubs)

    def _first(self) -> BaseException:
        """The first error that is not another rank's in disguise: those are CommunicatorErrors with a cause."""
        own = [
            (rank, error)
            for rank, error in self.errors
            if not (isinstance(error, CommunicatorError) and error.__cause__ is not None)
        ]
        rank, first = (own or self.errors)[0]
        first.add_note(f"raised on rank {rank} of {len(self.members)} in bnspec_backends.threads.run")
        for other, error in own[1:]:
            if str(error) != str(first):
                first.add_note(f"rank {other} raised {_text(error)}")
        if left := [rank for rank in self.members if rank not in self.ended]:
            first.add_note(f"{_ranks(left)} still ran {self.deadline + _GRACE:g} s later and was left behind")
        return first


def _facts(payload: Array, signature: Signature) -> dict[str, str]:
    """What has to be equal on all ranks, field by field, as text."""
    tracer = getattr(getattr(sys.modules.get("jax"), "core", None), "Tracer", ())
    if isinstance(payload, tracer) or not is_array_api_obj(payload):
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"the payload of layer {signature.layer!r} is a {type(payload).__name__}",
            expected="an array that holds values, which threads can exchange",
            do="Under jax.jit, grad or vmap use the library's own collectives; with threads call the layer eagerly.",
        )
    facts = {key: repr(value) for key, value in signature._asdict().items() if key != "options"}
    try:
        facts |= {f"options.{key}": json.dumps(value) for key, value in json.loads(signature.options).items()}
    except (AttributeError, ValueError):  # the options are no JSON object
        facts["options"] = repr(signature.options)
    return facts | {
        "payload shape": str(tuple(payload.shape)),
        "payload dtype": str(payload.dtype),
        "payload library": array_namespace(payload).__name__.removeprefix("array_api_compat."),
        "payload device": str(device(payload)),
    }


def _where(facts: Mapping[str, str]) -> str:
    return f"layer {facts['layer']} ({facts['operation'].strip(chr(39))}, collective {facts['sequence number']})"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
