"""Collectives of one rank of a process group: what is gathered, and every way in which that can fail.

All ranks gather a header and, behind it, the payload. How many bytes that is must be known to all ranks alike before
they meet. The number follows from the collectives that they completed together: the payload is taken to be as long as
the one that followed the last collective before, as in a training loop. Where that was wrong, the headers say so to
all ranks alike, and the payloads are gathered again.

No rank waits for ever, and none takes one layer's numbers for another's. An exchange that failed stays failed, since
the ranks no longer agree on their place in the program.
"""

import functools
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError
from bnspec_backends.ranks.facts import DO_THE_SAME, error_text, met_text, where
from bnspec_backends.ranks.failure import ERRORS, FirstFailure
from bnspec_backends.ranks.headers import HEADER, SAME, About, Header, parse_header
from bnspec_backends.ranks.notices import Notice, end_of
from bnspec_backends.ranks.processes import Owned
from bnspec_backends.ranks.torch.board import Board
from bnspec_backends.ranks.torch.exit import OPEN
from bnspec_backends.ranks.torch.gathers import Broken
from bnspec_backends.ranks.torch.start import connected
from bnspec_backends.ranks.waiting import wait

__all__ = ["Exchange"]

#: Seconds without a collective after which a rank may be late, so that it looks whether the others gave up.
_IDLE = 0.2

#: Seconds in which ranks that gave up, or lost a connection, may write why; less than the margin behind a deadline.
_REASONS = 1.0

#: Longest payload that is sent with its header where it is expected, in bytes; and most expectations that are kept.
_LONGEST, _KEPT = 1 << 18, 4096


class Exchange(Owned):
    """End of one rank in a group of ranks.

    Parameters
    ----------
    board : Board
        Of this group alone.
    number : int
        The own rank in the whole group, as in all texts.
    members : tuple of int
        The group's ranks there, in order.
    deadline : float
        Seconds that a rank waits for the others: here, and in one collective.
    group : str
        The group's id, the same on all of its ranks, as a hexadecimal number; empty for the whole.

    Attributes
    ----------
    board, number, members, deadline, group
    sequence : int
        Number of the last collective that was entered.
    hosts_store : bool
        Whether the store may end with this process.
    ended : set of int
        The ranks that failed, or take no further part, as far as is known here.

    Raises
    ------
    CollectiveTimeout
        Not every rank made its end before the deadline.
    """

    def __init__(self, board: Board, number: int, members: tuple[int, ...], deadline: float, group: str = "") -> None:
        self.board, self.number, self.members = board, number, members
        self.deadline, self.group = deadline, group
        self.sequence = 0
        self.hosts_store = False
        self.ended: set[int] = set()
        self.failure = FirstFailure(self._announce, members if group else ())
        self._group = bytes.fromhex(group).ljust(16, b"\0")
        self._busy = threading.Lock()
        self._notices: list[Notice] = []
        self._marked = 0  # the last collective in which the others can read that this rank waits
        self._met = time.perf_counter()
        self._before = b""
        self._expected: dict[bytes, int] = {}
        self._gathers = connected(board, number, members, deadline)
        OPEN.add(self)

    def collective(
        self,
        own: About,
        payload: npt.NDArray[Any],
        fold: Callable[[Sequence[Any]], Any],
        *,
        same_size: bool = True,
    ) -> Any:
        """Return what `fold` makes of the arrays of all ranks, in their order.

        Parameters
        ----------
        own : About
            The facts of this collective; must be equal on all ranks.
        payload : array
            A contiguous NumPy array.
        fold : callable
            Is given the arrays of all ranks, in their order.
        same_size : bool
            Whether all arrays must have one shape and dtype; otherwise they are arrays of bytes.
        """
        if not self._busy.acquire(blocking=False):
            self.failure.fail(
                f"rank {self.number} entered {self._where(own, 1)} on one thread while it waits on another",
                "one collective at a time on each rank",
                "Give each thread a communicator of its own with split().",
            )
        try:
            return fold(self._collective(own, payload, same_size))
        except CommunicatorError:
            raise
        except BaseException as error:  # after an interrupt or a fold that fails, this rank's place is unknown
            text = f"rank {self.number} raised {error_text(error)} in {self._where(own)}"
            self.failure.record(text, "it to finish", f"Correct the error of rank {self.number}.", cause=error)
            raise
        finally:
            self._met = time.perf_counter()
            self._busy.release()

    def close(self, error: BaseException | None = None, *, wait: bool = True) -> None:
        """Notify the other ranks that this one takes no further part, so that they do not wait for it.

        Parameters
        ----------
        error : BaseException, optional
            The error by which this rank ends, if it ends by one.
        wait : bool
            Whether to wait until the notice is written.
        """
        if self.failure.closed:
            return
        self.failure.closed = True
        OPEN.discard(self)
        if self._busy.locked():  # another thread waits in a collective
            self._gathers.abort()
        self.board.post(Notice(self.number, self.sequence, *end_of(error)), wait=wait)
        self._gathers.close()

    def drop(self) -> None:
        """Close the exchange of a communicator that was dropped: from within a finalizer, so without waiting."""
        self.close(wait=False)

    def listen(self) -> None:
        """Read the notices of the other ranks."""
        for notice in self.board.news():
            if notice.rank != self.number:
                self._notices.append(notice)
                self.ended.add(notice.rank)

    def _collective(self, own: About, payload: npt.NDArray[Any], same_size: bool) -> list[Any]:
        if not self.failure.usable:
            self.failure.refuse(f"rank {self.number} cannot enter {self._where(own, 1)}")
        begun = time.perf_counter()
        until = begun + self.deadline
        late = begun - self._met > _IDLE
        self.sequence += 1
        if late:
            self._stop_if_told(own)
        data = payload.reshape(-1).view(np.uint8)
        head = own.header(self.sequence, len(data), self._group, len(own.text))
        room = self._expected.get(self._before, 0)
        rows = self._gather(own, _row(head, data if len(data) <= room else data[:0], HEADER + room), until)
        if any(row[:SAME].tobytes() != head[:SAME] for row in rows):
            sizes = self._compare(own, [parse_header(row) for row in rows], until)
        else:
            sizes = [len(data)] * len(rows)
        longest, start = max(sizes), HEADER
        if longest > room:
            rows, start = self._gather(own, _row(b"", data, longest), until), 0
        if len(self._expected) < _KEPT or self._before in self._expected:
            self._expected[self._before] = -(-longest // 64) * 64 if longest <= _LONGEST else 0
        self._before = own.digest
        if late:
            self._stop_if_told(own)
        blocks = [row[start : start + size] for row, size in zip(rows, sizes)]
        return [block.view(payload.dtype).reshape(payload.shape) for block in blocks] if same_size else blocks

    def _gather(self, own: About, row: npt.NDArray[np.uint8], until: float) -> npt.NDArray[np.uint8]:
        """Return the rows of all ranks, or fail."""

        def interrupted() -> bool:
            if self._marked != self.sequence:
                self._marked = self.sequence
                self.board.mark("waits", self.number, self.sequence)
            self.listen()
            return self.failure.error is not None or self._alarm() is not None

        try:
            rows = self._gathers.gather(row, until, interrupted)
        except Broken as error:
            self._ended_by(functools.partial(self._broken, own, error))
        if rows is None:
            self._ended_by(functools.partial(self._late, own))
        if self.failure.error is not None:  # another thread found it
            self.failure.throw()
        return rows

    def _ended_by(self, fail: Callable[[], NoReturn]) -> NoReturn:
        """Fail, and only then close the connections: the other ranks, whose waits end by that, then read why."""
        try:
            fail()
        finally:
            self._gathers.abort()

    def _compare(self, own: About, heads: Sequence[Header], until: float) -> list[int]:
        """Return the numbers of bytes of the ranks' payloads; fail if they are of different collectives.

        Every rank has the same headers, so that all of them come here, and go on alike.
        """
        if all((h.digest, h.sequence, h.group) == (own.digest, self.sequence, self._group) for h in heads):
            return [head.payload for head in heads]
        text = np.frombuffer(own.text, np.uint8)
        rows = self._gather(own, _row(b"", text, max(head.text for head in heads)), until)
        facts = {}
        for rank, head, row in zip(self.members, heads, rows):
            body = json.loads(row[: head.text].tobytes())
            facts[rank] = {"sequence number": str(head.sequence), **body, "group": head.group.hex()}
        self.failure.fail(met_text(facts), "the same on every rank", DO_THE_SAME, kind=CollectiveMismatch)

    def _stop_if_told(self, own: About) -> None:
        """Fail where another rank has failed or ended, or another thread of this one."""
        self.listen()
        if self.failure.error is not None:
            self.failure.throw()
        notice = self._alarm()
        if notice is None:
            return
        if notice.kind in ERRORS:
            self.failure.keep(notice.text, ERRORS[notice.kind])
        else:
            self.failure.record_gone(notice, f"{self._where(own)} waited on rank {self.number}")
        self.failure.throw()

    def _broken(self, own: About, error: Broken) -> NoReturn:
        """Fail since gloo did: because of a rank that wrote why, or because of one that is gone without a word."""
        if self.failure.closed:
            self.failure.refuse(f"rank {self.number} waited in {self._where(own)}")
        gone = [self.members[rank] for rank in self._gathers.broken()]

        def told() -> bool:
            self.listen()
            return self._alarm() is not None

        wait(told, time.perf_counter() + _REASONS)
        self._stop_if_told(own)
        waited = f"{self._where(own)} waited on rank {self.number}"
        if gone:
            self.failure.record_ended(gone, waited, how="ended without a word (the connection to it is closed)")
            self.failure.throw()
        do = "See gloo's own message, and those of the other ranks."
        self.failure.fail(f"gloo failed while {waited}: {error}", "it to deliver", do, cause=error)

    def _late(self, own: About) -> NoReturn:
        self._stop_if_told(own)
        time.sleep(_REASONS / 4)  # a rank that came just before writes that it waits a little later
        missing = self.board.unmarked("waits", [rank for rank in self.members if rank != self.number], self.sequence)
        waited = f"{self._where(own)} waited {self.deadline:g} s on rank {self.number}"
        if missing:
            self.failure.record_late(missing, waited)
        else:
            got = f"{waited}, and the store, which would know which rank did not arrive, does not say"
            do = "Look for a rank that is stuck, at the store's first, or give the communicator a longer deadline."
            self.failure.record(got, "every rank within the deadline", do, CollectiveTimeout)
        self.failure.throw()

    def _alarm(self) -> Notice | None:
        """Return the first notice of a rank that is missed in this collective, not in a later one."""
        return next((notice for notice in self._notices if notice.sequence < self.sequence), None)

    def _where(self, own: About, ahead: int = 0) -> str:
        return where({"sequence number": str(self.sequence + ahead), **own.facts})

    def _announce(self, kind: str, text: str) -> None:
        self.board.post(Notice(self.number, self.sequence - 1, kind, text))


def _row(head: bytes, data: npt.NDArray[np.uint8], length: int) -> npt.NDArray[np.uint8]:
    """Return a header and data as a row of bytes, filled up with zeros."""
    row = np.zeros(length, np.uint8)
    row[: len(head)] = np.frombuffer(head, np.uint8)
    row[len(head) : len(head) + len(data)] = data
    return row
