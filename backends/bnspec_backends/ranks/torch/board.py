"""Notice board of one communicator, in torch's store: ranks that fail or end write there, and ranks that wait read.

gloo says that a connection broke, and nothing about why. So a rank that fails or ends writes a notice first. Notices
are numbered, so that a rank looks for one name only, however many ranks there are.

Where the store is gone or does not answer there are no notices, and no rank waits for them.
"""

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from bnspec_backends.ranks.notices import Notice
from bnspec_backends.ranks.torch.store_thread import StoreThread

__all__ = ["Board"]


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

    def __init__(self, store: Any, thread: StoreThread | None = None, server: Any = None) -> None:
        self.store = store
        self._server = server
        self.thread = StoreThread() if thread is None else thread
        self._read = 0
        self._unread: deque[Notice] = deque()  # of a question whose answer came too late for the one who asked

    def post(self, notice: Notice, *, wait: bool = True) -> None:
        """Write a notice; do not wait where `wait` is false, as in a finalizer."""
        text = json.dumps(notice)

        def write() -> None:
            self.store.set(f"notice/{self.store.add('notices', 1)}", text)

        if wait:
            self.thread.write(write)
        else:
            self.thread.tell(write)

    def news(self) -> list[Notice]:
        """Return the notices that were not read before."""

        def read() -> None:
            while self.store.check([name := f"notice/{self._read + 1}"]):
                self._unread.append(Notice(*json.loads(self.store.get(name))))
                self._read += 1

        self.thread.ask(read, None)
        return [self._unread.popleft() for _ in range(len(self._unread))]

    def mark(self, what: str, rank: int, number: int, until: float | None = None) -> None:
        """Write a number that other ranks may ask for, such as that of the collective in which a rank waits."""
        self.thread.write(lambda: self.store.set(f"{what}/{rank}", str(number)), until)

    def all_marked(self, what: str, ranks: Sequence[int], until: float | None = None) -> bool:
        """Return whether all these ranks wrote that mark."""
        names = [f"{what}/{rank}" for rank in ranks]
        return self.thread.ask(lambda: bool(self.store.check(names)), False, until)

    def unmarked(self, what: str, ranks: Sequence[int], least: int = 0) -> list[int]:
        """Return the ranks whose mark is missing, or less than a number; empty where the store does not say."""

        def missing(rank: int) -> bool:
            return not self.store.check([f"{what}/{rank}"]) or int(self.store.get(f"{what}/{rank}")) < least

        return self.thread.ask(lambda: [rank for rank in ranks if missing(rank)], [])
