"""The collectives of one rank among others: rounds of frames, and every way in which they can fail.

A rank that waits never waits for ever, and never takes one layer's numbers for another's. A rank that is missing,
differs or has failed ends the collective for everybody with an error that names it, and after that the ranks no longer
agree on where they are: an exchange that failed stays failed.
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
from bnspec_backends.ranks.failure import ERRORS, Health
from bnspec_backends.ranks.headers import HEADER, SAME, About, Header, body_text, of_facts, parse_header
from bnspec_backends.ranks.mpi.exit import ENDING
from bnspec_backends.ranks.mpi.library import refuse_unless_running, running
from bnspec_backends.ranks.mpi.receive_buffers import Room, Rooms
from bnspec_backends.ranks.mpi.transport import Group, Peers
from bnspec_backends.ranks.notices import News, reason_of
from bnspec_backends.ranks.schedule import Round, plan

__all__ = ["Exchange", "close_together"]

#: Seconds by which a later round waits longer than the one before, so that news of what happened there come first.
_LATER = 0.5


class Exchange:
    """One rank's end of a group of ranks.

    Attributes
    ----------
    peers : Peers
        Who carries the frames.
    number : int
        The own rank in the MPI communicator, as in all that is sent and said.
    members : tuple of int
        The group's ranks there, in order.
    deadline : float
        Seconds that a rank waits for the others in one collective.
    sequence : int
        Of the last collective that was entered.
    plan : list of Round
        Whom this rank hears and tells.
    heard : set of int
        Whom it hears, in all.
    group : str
        The group's id, the same on all of its ranks, as a hexadecimal number; empty for the whole communicator.
    group_bytes : bytes
        The same in sixteen bytes, as headers have it.
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
        self.health = Health(self._told_of, members if len(members) < peers.size else ())
        self._news: list[News] = []  # in the order in which they came
        self._described: set[bytes] = set()  # digests whose facts the others have
        self._facts: dict[tuple[int, bytes], Mapping[str, str]] = {}  # what those of the others stand for
        self._rooms = Rooms(self.number)
        self.heard = {rank for each in self.plan for rank in each.sources} - {self.number}
        peers.join(group, Group(self._news.append, set(self.heard), lambda: self.deadline, self._tag))
        ENDING.exchanges.add(self)

    def begin(self, until: float) -> None:
        """Wait for all ranks to make the same; nobody has to, where it is made of what they have just compared."""
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
        """Fold the arrays of all ranks, in order; each rank does, and gets the same bits.

        Parameters
        ----------
        own : About
            What this rank is about to do; must be equal on all. Its facts may have a sequence number of their own.
        payload : array
            Of NumPy, contiguous.
        fold : callable
            A list of arrays, of consecutive ranks or of groups of them, to one.
        same_size : bool
            Whether all must have one shape and dtype; otherwise they are arrays of bytes.
        """
        if not self._busy.acquire(blocking=False):
            self.health.fail(
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
            if not self.health.well:
                self.health.refuse(f"rank {self.number} cannot enter {self._where(own, 1)}")
            self.sequence += 1
            if self._news and self._alarming() is not None:
                self._end(own)
            for number, each in enumerate(self.plan):
                blocks = self._round(each, own, payload, until + number * _LATER, same_size)
                payload = fold(blocks)
            self._described.add(own.digest)
            return payload
        except CommunicatorError:
            raise
        except BaseException as error:  # an interrupt, a fold that fails: this rank no longer knows where it is
            text = f"rank {self.number} raised {error_text(error)} in {self._where(own)}"
            self.health.poison(text, "it to finish", f"Correct the error of rank {self.number}.", cause=error)
            raise

    def close(self, error: BaseException | None = None) -> None:
        """Tell the other ranks that this one takes no further part; they must not wait for it.

        Parameters
        ----------
        error : BaseException, optional
            Why, where it is not that all is done.
        """
        close_together([self], error)

    def drop(self) -> None:
        """Close it for a communicator that nobody has any more: from within a finalizer, so without waiting."""
        if not self.health.closed and running():
            self.peers.lock.leave(self.close)

    def release(self) -> None:
        """Give back the room for frames."""
        self._rooms.clear()
        ENDING.exchanges.discard(self)

    def told(self) -> list[int]:
        """The ranks that this one ever sends to; they tell those that they send to."""
        return sorted({rank for each in self.plan for rank in each.targets})

    def failure(self) -> CommunicatorError | None:
        """The first failure of this group that is known here; for those who do not wait in a collective."""
        told = next((news for news in self._news if news.kind in ERRORS), None)
        if told is not None:
            self.health.keep(told.text, ERRORS[told.kind])
        return self.health.error

    def _round(self, each: Round, own: About, payload: Any, until: float, same_size: bool) -> Sequence[Any]:
        """Exchange the arrays of one round; every block's, in order."""
        buffer = self._rooms.of(each.sources, payload) if same_size else Room(each.sources, self.number, payload)
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
            if self._interrupted():  # a rank that gave up may have ended while its message was being read
                self._end(own)
            place = self._where(own)
            self.health.fail(f"MPI failed in {place}: {error}", "it to deliver", "See its own message.", cause=error)
        if self._interrupted():  # also where all has come: the others may have given up just before
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
            if source in others:  # it came with a text behind it
                buffer.frames[i][HEADER:] = memoryview(others[source])[HEADER : HEADER + size]
        return buffer.arrays

    def _compare(self, sources: Sequence[int], frames: Sequence[Any], own: About) -> dict[int, Header]:
        """The headers of frames that are not like the own one; they may differ in their length only."""
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
        """How long this rank waited, and where."""
        if self.sequence:
            return f"{self._where(own)} waited {self.deadline:g} s on rank {self.number}"
        return f"rank {self.number} waited {self.deadline:g} s for the others to make their communicator"

    def _where(self, own: About, ahead: int = 0) -> str:
        if not self.sequence + ahead:
            return "the making of the communicator"
        return where({"sequence number": str(self.sequence + ahead), **own.facts})

    def _interrupted(self) -> bool:
        """Whether this collective cannot be completed: for what another thread did, or for what others told."""
        self.peers.hand_out_news()
        return self.health.error is not None or self._alarming() is not None

    def _alarming(self) -> News | None:
        """The first news of a rank that has no part in this collective; those about a later one are for then."""
        return next((news for news in self._news if news.sequence < self.sequence), None)

    def _end(self, own: About) -> NoReturn:
        if self.health.error is not None:
            self.health.throw()
        news = self._alarming()
        assert news is not None
        place = self._where(own)
        if news.kind in ERRORS:
            self.health.keep(news.text, ERRORS[news.kind])
            self.health.throw()
        self.health.poison_gone(news, f"{place} waited on rank {self.number}")
        self.health.throw()

    def _late(self, own: About, missing: Sequence[int]) -> NoReturn:
        self.health.poison_late(missing, self._waited(own))
        self.health.throw()

    def _differ(self, heads: Mapping[int, Any], own: About) -> NoReturn:
        facts: dict[int, Mapping[str, str]] = {}
        for source, header in heads.items():
            known = own.facts if header is None or header.digest == own.digest else self._facts[source, header.digest]
            number, group = (self.sequence, self.group_bytes) if header is None else (header.sequence, header.group)
            facts[source] = {"sequence number": str(number), **known, "group": group.hex()}
        self.health.fail(
            met_text(facts),
            "the same on every rank",
            DO_THE_SAME,
            kind=CollectiveMismatch,
        )

    def _told_of(self, kind: str, text: str) -> None:
        with contextlib.suppress(MPI.Exception):  # nobody can be told any more; the others' deadlines remain
            self.peers.tell(self.told(), {self.group: self.sequence - 1}, kind, text)


def close_together(exchanges: Iterable[Exchange], error: BaseException | None = None) -> None:
    """Close some, with one message to each rank for all that it has to hear; those that are closed stay so."""
    done: dict[tuple[Peers, int], dict[str, int]] = {}
    left: dict[Peers, list[str]] = {}
    for each in exchanges:
        if each.health.closed:
            continue
        each.health.closed = True
        each.release()
        left.setdefault(each.peers, []).append(each.group)
        for rank in each.told():
            done.setdefault((each.peers, rank), {})[each.group] = each.sequence
    if not running():
        return  # nobody is left to be told
    for (peers, rank), groups in done.items():
        with contextlib.suppress(MPI.Exception):
            peers.tell([rank], groups, *reason_of(error))
    for peers, names in left.items():
        with contextlib.suppress(MPI.Exception):
            peers.leave(names)
