"""Several layers in flight: calls that do not depend on each other share their messages.

A call runs until it wants to communicate. Then it waits, and the next one runs; when all of them wait or have ended,
what they want to send goes out as one message, and each gets its own result, the same to the bit as if it had been
sent alone. The calls take turns, one at a time, so that a batch is as deterministic as its calls are.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar

from bnspec._communicator import Signature
from bnspec._errors import CommunicatorError, refusal
from bnspec._types import Array
from bnspec_backends.ranks.processes import Owned

__all__ = ["Batch", "Request", "waiting_batch"]

T = TypeVar("T")

_CURRENT: contextvars.ContextVar["_Turn | None"] = contextvars.ContextVar("bnspec_batched_call", default=None)


class Request(NamedTuple):
    """One call's part of a message: the arguments of ``all_reduce``."""

    payload: Array
    combine: Callable[[Array, Array], Array]
    signature: Signature


class Batch(Owned):
    """What ``with comm.batched() as batch`` gives: `submit` calls, and read their results after the block.

    Parameters
    ----------
    comm : object
        The communicator whose messages are joined.
    send : callable
        A list of `Request` to the list of their results, in one message.
    around : callable
        Makes the context in which each call runs: what is current on the caller's thread, such as a stream.
    """

    def __init__(
        self,
        comm: Any,
        send: Callable[[Sequence[Request]], Sequence[Array]],
        around: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.comm, self.around = comm, around
        self._send = send
        self._turns: list[_Turn] | None = []

    def __repr__(self) -> str:
        """``<Batch of <MPICommunicator rank 0 of 2>>``."""
        return f"<Batch of {self.comm!r}>"

    def submit(self, fn: Callable[..., T], *arguments: Any, **named: Any) -> "Future[T]":
        """Remember a call, such as ``submit(layer, x)``; it runs at the end of the block.

        Every rank must submit the same layers in the same order. The calls must not depend on each other's results.

        Returns
        -------
        concurrent.futures.Future
            Its ``result()`` is there after the block: what the call returned, or the error that it raised.
        """
        self.refuse_inherited()
        if self._turns is None:
            raise refusal(
                RuntimeError,
                "BN-SYNC-11",
                got="a call submitted to a batch that is over",
                expected="calls inside of the `with` block",
                do="Begin another batch.",
            )
        turn = _Turn(self, lambda: fn(*arguments, **named))
        self._turns.append(turn)
        return turn.future

    def __enter__(self) -> "Batch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        turns, self._turns = self._turns or [], None
        if error is None and self.inherited:  # the calls would wait for threads that are not here
            for turn in turns:
                turn.future.cancel()
            self.refuse_inherited()
        if error is not None:
            for turn in turns:
                turn.future.cancel()
            return False
        try:
            for turn in turns:
                turn.go_on(None)
            while waiting := [turn for turn in turns if turn.request is not None]:
                try:
                    results: Sequence[Any] = self._send([turn.request for turn in waiting if turn.request is not None])
                except Exception as failed:
                    results = [failed] * len(waiting)
                for turn, result in zip(waiting, results, strict=True):
                    turn.go_on(result)
        except BaseException as interrupt:  # no call is left waiting for what will not come
            for turn in turns:
                turn.give_up(interrupt)
            raise
        return False


class _Turn:
    """One call of a batch, on a thread of its own that runs only while the batch waits for it."""

    def __init__(self, batch: Batch, call: Callable[[], Any]) -> None:
        self.batch = batch
        self.future: Future[Any] = Future()
        self.request: Request | None = None  # what it waits for
        self._call = call
        self._answer: Any = None
        self._mine, self._batchs = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def go_on(self, answer: Any) -> None:
        """Let the call run until it wants to communicate again, or has ended."""
        self._answer, self.request = answer, None
        if self._thread is None:
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._run,), name="bnspec batched", daemon=True)
            self._thread.start()
        else:
            self._mine.release()
        self._batchs.acquire()

    def give_up(self, error: BaseException) -> None:
        """End a call that waits, and fail one that never ran."""
        if self.request is not None:
            self.go_on(CommunicatorError(f"the batch was ended by {type(error).__name__}"))
        if not self.future.done():
            self.future.cancel()

    def ask(self, request: Request) -> Array:
        """In the call's thread: hand over what is to be sent, and wait for the answer."""
        self.request = request
        self._batchs.release()
        self._mine.acquire()
        if isinstance(self._answer, BaseException):
            raise type(self._answer)(*self._answer.args) from self._answer
        return self._answer

    def _run(self) -> None:
        _CURRENT.set(self)
        try:
            with self.batch.around():
                result = self._call()
            self.future.set_result(result)
        except BaseException as error:
            self.future.set_exception(error)
        finally:
            self._batchs.release()


def waiting_batch(comm: Any) -> "Callable[[Request], Array] | None":
    """How a collective is asked for inside a batched call of this communicator; None outside."""
    turn = _CURRENT.get()
    return turn.ask if turn is not None and turn.batch.comm is comm else None
