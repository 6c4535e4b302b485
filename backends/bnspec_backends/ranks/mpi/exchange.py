"""Collectives of one rank among others: rounds of messages, and every way in which a round can fail.

No rank waits for ever, and none takes one layer's numbers for another's. A rank that is missing, differs or has failed
ends the collective for all ranks with an error that names it. After that the ranks no longer agree on their place in
the program: an exchange that failed stays failed.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

from bnspec._errors import CollectiveMismatch, CommunicatorError
from bnspec_backends.ranks.facts import DO_THE_SAME, error_text, met_text, where
from bnspec_backends.ranks.failure import ERRORS, FirstFailure
from bnspec_backends.ranks.headers import HEADER, SAME, About, Header, body_text, of_facts, parse_header
from bnspec_backends.ranks.mpi.exit import ENDING
from bnspec_backends.ranks.mpi.library import refuse_unless_running, running
from bnspec_backends.ranks.mpi.receive_buffers import BufferCache, ReceiveBuffers
from bnspec_backends.ranks.mpi.transport import Group, Peers
from bnspec_backends.ranks.notices import Notice, end_of
from bnspec_backends.ranks.schedule import Round, plan

__all__ = ["Exchange", "close_together"]

#: Seconds by which a round waits longer than the one before, so that notices of failures there come first.
_LATER = 0.5


class Exchange:
    """End of one rank in a group of ranks.

    Attributes
    ----------
    peers : Peers
        The transport of the messages.
    number : int
        The own rank in the MPI communicator, as in all messages and texts.
    members : tuple of int
        The group's ranks there, in order.
    deadline : float
        Seconds that a rank waits for the others in one collective.
    sequence : int
        Number of the last collective that was entered.
    plan : list of Round
        The sources and targets of this rank.
    sources : set of int
        The ranks that this one receives from, in all rounds.
    group : str
        The group's id, the same on all of its ranks, as a hexadecimal number; empty for the whole communicator.
    group_bytes : bytes
        The group's id in sixteen bytes, as in headers.
    """

    def __init__(self, peers: Peers, members: tuple[int, ...], deadline: float, group: str = "") -> None:
        self.members, self.deadline, self.group = members, deadline, group
        self.sequence = 0
        self.number = peers.rank
        self.peers = peers
        self.plan = [
            Round(*(tuple(members[rank] for rank in ranks) for ranks in each))
            for each in plan(len(members), members.index(self.number))
        ]
        self._tag, self.group_bytes = peers.tag_of(group), bytes.fromhex(group).ljust(16, b"\0")
        self._busy = threading.Lock()
        self.failure = FirstFailure(self._announce, members if len(members) < peers.size else ())
        self._notices: list[Notice] = []  # in the order in which they came
        self._described: set[bytes] = set()  # digests whose facts the other ranks have
        self._facts: dict[tuple[int, bytes], Mapping[str, str]] = {}  # facts of the other ranks' digests
        self._buffers = BufferCache(self.number)
        self.sources = {rank for each in self.plan for rank in each.sources} - {self.number}
        peers.join(group, Group(self._notices.append, set(self.sources), lambda: self.deadline, self._tag))
        ENDING.exchanges.add(self)

    def begin(self, until: float) -> None:
        """Wait for all ranks to make the group; a part needs no such wait, since its ranks have just met in `split`."""
        self.sequence = -1
        facts = of_facts({"operation": "'open'", "layer": "none"})
        try:
            self._collective(facts, np.empty(0, np.uint8), lambda blocks: blocks[0], until)
        except BaseException as error:
            self.close(error)
            raise

    def collective(
        self, own: About, payload: Any, fold: Callable[[Sequence[Any]], Any], *, same_size: bool = True
    ) -> Any:
        """Fold the arrays of all ranks, in order, on each rank, so that all get the same bits.

        Parameters
        ----------
        own : About
            The facts of this collective; must be equal on all ranks. They may have a sequence number of their own.
        payload : array
            A contiguous NumPy array.
        fold : callable
            Turns a list of arrays, of consecutive ranks or groups of ranks, into one.
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
            return self._collective(own, payload, fold, time.perf_counter() + self.deadline, same_size)
        finally:
            self._busy.release()

    def _collective(
        self, own: About, payload: Any, fold: Callable[[Sequence[Any]], Any], until: float, same_size: bool = True
    ) -> Any:
        try:
            refuse_unless_running(f"rank {self.number} cannot enter {self._where(own, 1)}")
            if not self.failure.usable:
                self.failure.refuse(f"rank {self.number} cannot enter {self._where(own, 1)}")
            self.sequence += 1
            if self._notices and self._alarm() is not None:
                self._end(own)
            for number, each in enumerate(self.plan):
                blocks = self._round(each, own, payload, until + number * _LATER, same_size)
                payload = fold(blocks)
            self._described.add(own.digest)
            return payload
        except CommunicatorError:
            raise
        except (
            BaseException
        ) as error:  # after an interrupt or a fold that fails, this rank's place in the program is unknown
            text = f"rank {self.number} raised {error_text(error)} in {self._where(own)}"
            self.failure.record(text, "it to finish", f"Correct the error of rank {self.number}.", cause=error)
            raise

    def close(self, error: BaseException | None = None) -> None:
        """Notify the other ranks that this one takes no further part, so that they do not wait for it.

        Parameters
        ----------
        error : BaseException, optional
            The error by which this rank ends, if it ends by one.
        """
        close_together([self], error)

    def drop(self) -> None:
        """Close the exchange of a communicator that was dropped: from within a finalizer, so without waiting."""
        if not self.failure.closed and running():
            self.peers.lock.leave(self.close)

    def release(self) -> None:
        """Free the receive buffers."""
        self._buffers.clear()
        ENDING.exchanges.discard(self)

    def notified(self) -> list[int]:
        """Return the ranks to notify. Each passes a failure on to its own targets, so that all ranks get it."""
        return sorted({rank for each in self.plan for rank in each.targets})

    def known_failure(self) -> CommunicatorError | None:
        """Return the first failure of this group that is known here, for callers that do not wait in a collective."""
        notice = next((notice for notice in self._notices if notice.kind in ERRORS), None)
        if notice is not None:
            self.failure.keep(notice.text, ERRORS[notice.kind])
        return self.failure.error

    def _round(self, each: Round, own: About, payload: Any, until: float, same_size: bool) -> Sequence[Any]:
        """Exchange the arrays of one round; return the arrays of all blocks, in order."""
        buffer = (
            self._buffers.of(each.sources, payload) if same_size else ReceiveBuffers(each.sources, self.number, payload)
        )
        size, frame = payload.nbytes, buffer.frames[buffer.mine]
        head = own.header(self.sequence, size, self.group_bytes, 0)
        frame[:HEADER] = head
        np.copyto(buffer.arrays[buffer.mine], payload)
        sent: Any = frame
        if own.digest not in self._described:
            sent = own.header(self.sequence, size, self.group_bytes, len(own.text)) + bytes(frame[HEADER:]) + own.text
        try:
            others, missing = self.peers.exchange(sent, self._tag, each.targets, buffer.waits, until, self._interrupted)
        except MPI.Exception as error:
            if self._interrupted():  # a rank that gave up may have ended while its message was read
                self._end(own)
            place = self._where(own)
            self.failure.fail(f"MPI failed in {place}: {error}", "it to deliver", "See its own message.", cause=error)
        if self._interrupted():  # also if all messages have come: the other ranks may have given up just before
            self._end(own)
        if missing:
            self._late(own, missing)
        same = head[:SAME]
        if not others and all(bytes(frame[:SAME]) == same for frame in buffer.waits.values()):
            return buffer.arrays
        frames = [others.get(source, frame) for source, frame in zip(each.sources, buffer.frames)]
        heads = self._compare(each.sources, frames, own)
        if not same_size:
            return [
                np.frombuffer(frame, np.uint8, heads[source].payload if source in heads else size, HEADER)
                for source, frame in zip(each.sources, frames)
            ]
        for i, source in enumerate(each.sources):
            if source in others:  # this message has a text behind the array
                buffer.frames[i][HEADER:] = memoryview(others[source])[HEADER : HEADER + size]
        return buffer.arrays

    def _compare(self, sources: Sequence[int], frames: Sequence[Any], own: About) -> dict[int, Header]:
        """Return the headers of messages unlike the own one; fail unless they differ in their length only."""
        same = bytes(frames[sources.index(self.number)][:SAME])
        heads: dict[int, Header] = {}
        for source, frame in zip(sources, frames):
            if frame[:SAME] == same and len(frame) == len(frames[sources.index(self.number)]):
                continue
            heads[source] = header = parse_header(frame)
            if header.text:
                self._facts[source, header.digest] = body_text(frame, header)
        if any(
            (h.digest, h.sequence, h.group) != (own.digest, self.sequence, self.group_bytes) for h in heads.values()
        ):
            self._differ({source: heads.get(source) for source in sources}, own)
        return heads

    def _waited(self, own: About) -> str:
        """Return where this rank waited, and how long."""
        if self.sequence:
            return f"{self._where(own)} waited {self.deadline:g} s on rank {self.number}"
        return f"rank {self.number} waited {self.deadline:g} s for the others to make their communicator"

    def _where(self, own: About, ahead: int = 0) -> str:
        if not self.sequence + ahead:
            return "the making of the communicator"
        return where({"sequence number": str(self.sequence + ahead), **own.facts})

    def _interrupted(self) -> bool:
        """Return whether another thread or another rank has made this collective impossible to complete."""
        self.peers.deliver_notices()
        return self.failure.error is not None or self._alarm() is not None

    def _alarm(self) -> Notice | None:
        """Return the first notice of a rank that is missed in this collective, not in a later one."""
        return next((notice for notice in self._notices if notice.sequence < self.sequence), None)

    def _end(self, own: About) -> NoReturn:
        if self.failure.error is not None:
            self.failure.throw()
        notice = self._alarm()
        assert notice is not None
        place = self._where(own)
        if notice.kind in ERRORS:
            self.failure.keep(notice.text, ERRORS[notice.kind])
            self.failure.throw()
        self.failure.record_gone(notice, f"{place} waited on rank {self.number}")
        self.failure.throw()

    def _late(self, own: About, missing: Sequence[int]) -> NoReturn:
        self.failure.record_late(missing, self._waited(own))
        self.failure.throw()

    def _differ(self, heads: Mapping[int, Any], own: About) -> NoReturn:
        facts: dict[int, Mapping[str, str]] = {}
        for source, header in heads.items():
            known = own.facts if header is None or header.digest == own.digest else self._facts[source, header.digest]
            number, group = (self.sequence, self.group_bytes) if header is None else (header.sequence, header.group)
            facts[source] = {"sequence number": str(number), **known, "group": group.hex()}
        self.failure.fail(
            met_text(facts),
            "the same on every rank",
            DO_THE_SAME,
            kind=CollectiveMismatch,
        )

    def _announce(self, kind: str, text: str) -> None:
        with contextlib.suppress(MPI.Exception):  # no message gets through; the other ranks have their deadlines
            self.peers.notify(self.notified(), {self.group: self.sequence - 1}, kind, text)


def close_together(exchanges: Iterable[Exchange], error: BaseException | None = None) -> None:
    """Close exchanges that are open, with one notice to each rank about all of them."""
    done: dict[tuple[Peers, int], dict[str, int]] = {}
    left: dict[Peers, list[str]] = {}
    for each in exchanges:
        if each.failure.closed:
            continue
        each.failure.closed = True
        each.release()
        left.setdefault(each.peers, []).append(each.group)
        for rank in each.notified():
            done.setdefault((each.peers, rank), {})[each.group] = each.sequence
    if not running():
        return  # no other rank can be notified
    for (peers, rank), groups in done.items():
        with contextlib.suppress(MPI.Exception):
            peers.notify([rank], groups, *end_of(error))
    for peers, names in left.items():
        with contextlib.suppress(MPI.Exception):
            peers.leave(names)
