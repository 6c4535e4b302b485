"""Thread that asks a store of torch.distributed, so that no rank waits for one that is gone or does not answer.

A store is a server in one of the processes. One that is gone is not asked again. One that answers late is waited for in
the thread only: torch's server looks up the name of each process that connects, and answers nobody else while a name
server is silent. Writing then happens later, and a rank that only wants to know something goes on without.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from bnspec_backends.ranks.waiting import GRACE

__all__ = ["StoreThread"]

T = TypeVar("T")


class StoreThread:
    """Thread that asks a store; it ends when nobody needs it any more."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._lost = threading.Event()
        self._begun = threading.Lock()
        self._awaited: _Order | None = None  # the last order whose answer was not waited for to the end
        weakref.finalize(self, self._orders.put, None).atexit = False

    @property
    def lost(self) -> bool:
        """True if the store failed; it is not asked again."""
        return self._lost.is_set()

    @property
    def silent(self) -> bool:
        """True if the store failed, or did not answer something for `GRACE` seconds and has not done so since."""
        order = self._awaited
        return self.lost or (order is not None and order.late)

    def ask(self, question: Callable[[], T], otherwise: T, until: float | None = None) -> T:
        """Return the answer to a question, or something else where the store does not answer in time.

        Parameters
        ----------
        question : callable
            Asks the store; it must do no harm when it is called later than its answer is needed.
        otherwise : object
        until : float, optional
            Time to give up, on `time.perf_counter`'s clock; by default `GRACE` seconds from now, and at once where the
            store already keeps somebody waiting.
        """
        if self.lost or (until is None and self.silent):
            return otherwise
        order = self.tell(question)
        answer: T = order.answer if self._answered(order, until) else otherwise
        return answer

    def write(self, action: Callable[[], Any], until: float | None = None) -> None:
        """Have something written, and wait for that as long as `ask` does; it is written however late the store is."""
        here = until is not None or not self.silent
        order = self.tell(action)
        if here:
            self._answered(order, until)

    def tell(self, action: Callable[[], Any]) -> "_Order":
        """Hand over a question or an action without waiting."""
        if self._begun.acquire(blocking=False):  # never let go: the thread is started once
            threading.Thread(target=_serve, args=(self._orders, self._lost), name="bnspec store", daemon=True).start()
        order = _Order(action)
        if not self.lost:
            self._orders.put(order)
        return order

    def _answered(self, order: "_Order", until: float | None) -> bool:
        within = GRACE if until is None else max(0.0, until - time.perf_counter())
        if not order.done.wait(0.0 if self.lost else within):
            self._awaited = order
            return False
        return not self.lost


class _Order:
    """Question for the store's thread, and its answer."""

    def __init__(self, question: Callable[[], Any]) -> None:
        self.question = question
        self.given = time.perf_counter()
        self.done = threading.Event()
        self.answer: Any = None

    @property
    def late(self) -> bool:
        return not self.done.is_set() and time.perf_counter() - self.given >= GRACE


def _serve(orders: "queue.SimpleQueue[_Order | None]", lost: threading.Event) -> None:
    while (order := orders.get()) is not None:
        if not lost.is_set():
            try:
                order.answer = order.question()
            except Exception:  # whatever a store raises where its server is gone
                lost.set()
        order.done.set()
        del order  # it may hold the last reference to the board
