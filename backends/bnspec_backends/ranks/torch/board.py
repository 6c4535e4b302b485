"""Notice board of one communicator, in torch's store: ranks that fail or end write there, and ranks that wait read.

gloo says that a connection broke, and nothing about why. So a rank that fails or ends writes a notice first. Notices
are numbered, so that a rank looks for one name only, however many ranks there are.

A store is a server in one of the processes, which may be gone, or never answer. Then there are no notices, and no rank
waits for the store: a thread of its own asks, and the caller waits for the answer for a limited time.
"""

import json
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bnspec_backends.ranks.notices import Notice
from bnspec_backends.ranks.waiting import GRACE

__all__ = ["Board"]

T = TypeVar("T")


class Board:
    """Notices of the ranks of one communicator.

    Parameters
    ----------
    store : torch.distributed.Store
    thread : StoreThread, optional
        The thread that asks the store; a part has that of the whole.
    server : object, optional
        Kept as long as the board: the program may end its process group, and the store's server with it.

    Attributes
    ----------
    store : torch.distributed.Store
    thread : StoreThread
    """

    def __init__(self, store: Any, thread: "StoreThread | None" = None, server: Any = None) -> None:
        self.store = store
        self._server = server
        self.thread = StoreThread() if thread is None else thread
        self._read = 0

    def post(self, notice: Notice, *, wait: bool = True) -> None:
        """Write a notice; do not wait where `wait` is false, as in a finalizer."""
        text = json.dumps(notice)

        def write() -> None:
            self.store.set(f"notice/{self.store.add('notices', 1)}", text)

        if wait:
            self.thread.ask(write, None)
        else:
            self.thread.tell(write)

    def news(self) -> list[Notice]:
        """Return the notices that were not read before."""

        def read() -> list[Notice]:
            found = []
            while self.store.check([name := f"notice/{self._read + 1}"]):
                found.append(Notice(*json.loads(self.store.get(name))))
                self._read += 1
            return found

        return self.thread.ask(read, [])

    def mark(self, what: str, rank: int, number: int) -> None:
        """Write a number that other ranks may ask for, such as that of the collective in which a rank waits."""
        self.thread.ask(lambda: self.store.set(f"{what}/{rank}", str(number)), None)

    def all_marked(self, what: str, ranks: Sequence[int]) -> bool:
        """Return whether all these ranks wrote that mark."""
        return self.thread.ask(lambda: bool(self.store.check([f"{what}/{rank}" for rank in ranks])), False)

    def unmarked(self, what: str, ranks: Sequence[int], least: int = 0) -> list[int]:
        """Return the ranks whose mark is missing, or less than a number; empty where the store does not say."""

        def missing(rank: int) -> bool:
            return not self.store.check([f"{what}/{rank}"]) or int(self.store.get(f"{what}/{rank}")) < least

        return self.thread.ask(lambda: [rank for rank in ranks if missing(rank)], [])


class StoreThread:
    """Thread that asks a store, given up when the store does not answer, and ended when nobody needs it any more."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._lost = threading.Event()
        self._begun = threading.Lock()
        weakref.finalize(self, self._orders.put, None).atexit = False

    @property
    def lost(self) -> bool:
        """True if the store failed or did not answer in time; it is not asked again."""
        return self._lost.is_set()

    def ask(self, question: Callable[[], T], otherwise: T) -> T:
        """Return the answer to a question, or something else where the store has none."""
        if self.lost:
            return otherwise
        order = self.tell(question)
        if not order.done.wait(GRACE):
            self._lost.set()
        answer: T = order.answer
        return otherwise if self.lost else answer

    def tell(self, question: Callable[[], Any]) -> "_Order":
        """Hand over a question without waiting for its answer."""
        if self._begun.acquire(blocking=False):  # never let go: the thread is started once
            threading.Thread(target=_serve, args=(self._orders, self._lost), name="bnspec store", daemon=True).start()
        order = _Order(question)
        self._orders.put(order)
        return order


class _Order:
    """Question for the store's thread, and its answer."""

    def __init__(self, question: Callable[[], Any]) -> None:
        self.question = question
        self.done = threading.Event()
        self.answer: Any = None


def _serve(orders: "queue.SimpleQueue[_Order | None]", lost: threading.Event) -> None:
    while (order := orders.get()) is not None:
        if not lost.is_set():
            try:
                order.answer = order.question()
            except Exception:  # whatever a store raises where its server is gone
                lost.set()
        order.done.set()
        del order  # it may hold the last reference to the board
