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
import operator
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from bnspec._communicator import Signature
from bnspec._errors import CommunicatorError, refusal
from bnspec._namespace import array_namespace
from bnspec._types import Array
from bnspec_backends.ranks.facts import error_text, facts_of, ranks_text
from bnspec_backends.ranks.processes import Owned
from bnspec_backends.ranks.rendezvous import Hub

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
            "given to bnspec_backends.ranks.threads.run(size, fn) [BN-SYNC-9]. Call it there, or pass comm=None."
        ) from None


class ThreadCommunicator(Owned):
    """One rank's end of a group of threads, a `bnspec.Communicator`. `run` makes them.

    Device arrays are read as the library orders them: all ranks use one device and one stream.

    Attributes
    ----------
    rank : int
        This rank, 0 .. size - 1.
    size : int
        Number of ranks.
    """

    def __init__(self, hub: "Hub", rank: int) -> None:
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
        self.refuse_inherited()

        def fold(payloads: list[Array]) -> list[Array]:
            total = functools.reduce(combine, payloads)
            xp = array_namespace(total)
            return [xp.asarray(total, copy=True) for _ in payloads]

        return self._hub.meet(self.rank, payload, lambda: facts_of(payload, signature), fold)

    def split(self, color: Hashable) -> "ThreadCommunicator":
        """The communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. Faults of the part poison the part; a rank that ends
        fails every communicator it is in. Error texts of a part name its ranks by their numbers in `run`.
        """
        self.refuse_inherited()

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


class _Session(Owned):
    """The threads of one `run`: their results, and their errors in the order they were raised."""

    def __init__(self, size: int, deadline: float) -> None:
        self.members = tuple(range(size))
        self.deadline = deadline
        self.condition = threading.Condition()
        self.hubs: weakref.WeakSet[Hub] = weakref.WeakSet()  # split may be called every step
        self.ended: dict[int, Any] = {}
        self.errors: list[tuple[int, BaseException]] = []

    def register(self, hub: Hub) -> None:
        with self.condition:
            self.hubs.add(hub)

    def run(self, fn: Callable[..., T], args: Sequence[Any] | None) -> list[T]:
        hub = Hub(self, self.members)
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
            if self.inherited:
                raise
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
            if self.inherited:
                raise  # in a forked child nobody else would tell
            self._leave(comm.rank, None, error)
        else:
            self._leave(comm.rank, result, None)

    def _leave(self, rank: int, result: Any, error: BaseException | None) -> None:
        if self.inherited:
            return  # a rank's thread went on in a forked child, where the others are not
        if error is not None:
            with self.condition:
                self.errors.append((rank, error))  # before any other rank can fail because of it
        for hub in self._hubs():
            if rank in hub.members:
                hub.leave(hub.members.index(rank), error)
        with self.condition:
            self.ended[rank] = result
            self.condition.notify_all()

    def _hubs(self) -> list[Hub]:
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
        first.add_note(f"raised on rank {rank} of {len(self.members)} in bnspec_backends.ranks.threads.run")
        for other, error in own[1:]:
            if str(error) != str(first):
                first.add_note(f"rank {other} raised {error_text(error)}")
        if left := [rank for rank in self.members if rank not in self.ended]:
            first.add_note(f"{ranks_text(left)} still ran {self.deadline + _GRACE:g} s later and was left behind")
        return first
