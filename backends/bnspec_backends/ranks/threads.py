"""Ranks as threads of one process: `run` starts them, `ThreadCommunicator` joins their statistics.

All ranks of a communicator meet at one *rendezvous*. Each deposits the facts of its collective and its payload. The
last to arrive compares the facts, folds the payloads in rank order and hands every rank a copy. The fold is computed
once, so the result is the same to the bit on every rank whatever the library does [BN-SYNC-2]. No rank leaves before
the fold is done, so a rank may overwrite its payload as soon as `all_reduce` returns. A fault ends the meeting for all
ranks at once. A communicator that failed stays failed, because its ranks no longer agree on their place in the program.
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
from bnspec_backends.ranks.rendezvous import Rendezvous
from bnspec_backends.ranks.waiting import checked_deadline

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
    ranks. Settings that a library keeps per thread (``torch.no_grad``, ``jax.enable_x64``) do not: set them in `fn`.

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
    deadline = checked_deadline(deadline)
    if args is not None and len(args) != size:
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got=f"args has {len(args)} values for {size} ranks",
            expected="one per rank",
            do="Rank r gets args[r]; what all ranks share belongs in fn.",
        )
    return _Run(size, deadline).run(fn, args)


def current() -> "ThreadCommunicator":
    """Return the communicator of the rank whose thread this is; the entry point ``threads`` names this function.

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
    """Communicator of one rank in a group of threads, a `bnspec.Communicator`. `run` makes them.

    All ranks use one device and one stream, so that device arrays are read in the library's own order.

    Attributes
    ----------
    rank : int
        This rank, 0 .. size - 1.
    size : int
        Number of ranks.
    """

    def __init__(self, rendezvous: Rendezvous, rank: int) -> None:
        self.rank = rank
        self.size = len(rendezvous.members)
        self._rendezvous = rendezvous

    def __repr__(self) -> str:
        """Return ``<ThreadCommunicator rank 0 of 2>``."""
        return f"<ThreadCommunicator rank {self.rank} of {self.size}>"

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Fold the ranks' payloads in rank order, as `bnspec.Communicator.all_reduce` describes.

        Each rank gets a copy of its own. A TypeError refuses a payload without values, such as a tracer of ``jax.jit``.
        """
        self.refuse_inherited()

        def fold(payloads: list[Array]) -> list[Array]:
            total = functools.reduce(combine, payloads)
            xp = array_namespace(total)
            return [xp.asarray(total, copy=True) for _ in payloads]

        return self._rendezvous.meet(self.rank, payload, lambda: facts_of(payload, signature), fold)

    def split(self, color: Hashable) -> "ThreadCommunicator":
        """Return the communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. A fault of the part leaves the whole usable; a rank that
        ends fails every communicator it is in. Error texts of a part name its ranks by their numbers in `run`.
        """
        self.refuse_inherited()

        def regroup(colors: list[Hashable]) -> list[ThreadCommunicator]:
            places: dict[Hashable, list[int]] = {}
            for place, each in enumerate(colors):
                places.setdefault(each, []).append(place)
            parts = {each: self._rendezvous.part(group) for each, group in places.items()}
            return [ThreadCommunicator(parts[each], places[each].index(n)) for n, each in enumerate(colors)]

        def facts() -> dict[str, str]:
            hash(color)
            return {"operation": "'split'", "layer": "none"}

        part: ThreadCommunicator = self._rendezvous.meet(self.rank, color, facts, regroup)
        return part


class _Run(Owned):
    """Threads of one `run`: their results, and their errors in the order they were raised."""

    def __init__(self, size: int, deadline: float) -> None:
        self.members = tuple(range(size))
        self.deadline = deadline
        self.condition = threading.Condition()
        self.meetings: weakref.WeakSet[Rendezvous] = weakref.WeakSet()  # split may be called every step
        self.ended: dict[int, Any] = {}
        self.errors: list[tuple[int, BaseException]] = []

    def register(self, rendezvous: Rendezvous) -> None:
        with self.condition:
            self.meetings.add(rendezvous)

    def run(self, fn: Callable[..., T], args: Sequence[Any] | None) -> list[T]:
        rendezvous = Rendezvous(self, self.members)
        threads: dict[int, threading.Thread] = {}
        try:
            for rank in self.members:
                rest = () if args is None else (args[rank],)
                context = contextvars.copy_context()
                work = functools.partial(context.run, self._work, fn, ThreadCommunicator(rendezvous, rank), rest)
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
            for each in self._all():
                each.interrupt(error)
            raise
        for rank in threads.keys() & self.ended.keys():
            threads[rank].join()  # the thread is past the last line of this file
        if self.errors:
            raise self._first()
        return [self.ended[rank] for rank in self.members]

    def _work(self, fn: Callable[..., Any], comm: ThreadCommunicator, rest: tuple[Any, ...]) -> None:
        _CURRENT.set(comm)
        try:
            result = fn(comm, *rest)
        except BaseException as error:
            if self.inherited:
                raise  # in a forked child no other thread would report it
            self._leave(comm.rank, None, error)
        else:
            self._leave(comm.rank, result, None)

    def _leave(self, rank: int, result: Any, error: BaseException | None) -> None:
        if self.inherited:
            return  # a rank's thread went on in a forked child, where the others are not
        if error is not None:
            with self.condition:
                self.errors.append((rank, error))  # before another rank can fail because of this one
        for rendezvous in self._all():
            if rank in rendezvous.members:
                rendezvous.leave(rendezvous.members.index(rank), error)
        with self.condition:
            self.ended[rank] = result
            self.condition.notify_all()

    def _all(self) -> list[Rendezvous]:
        with self.condition:
            return list(self.meetings)

    def _first(self) -> BaseException:
        """Return the first error that a rank raised by itself; an error of another rank is the cause of the others."""
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
