"""Transport of messages and notices between the ranks of one MPI communicator; every wait ends.

MPI's own collectives notice neither that a rank is missing nor that two ranks mean different things, and a message of
another length than expected ends the job. So data travels as single messages of any length, received by probing, and a
wait ends at its deadline. A notice says that a rank failed or left. Notices have a tag of their own, and are delivered
to the groups that they are about.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

from bnspec_backends._deferred import Deferred
from bnspec_backends.ranks.notices import LAST, Notice
from bnspec_backends.ranks.waiting import pause

__all__ = ["Group", "Peers"]

#: Polls for data messages for each poll for notices.
_POLLS = 16

#: Tags of notices and of the whole communicator's data; the tags of groups lie above.
_NOTICES, _FIRST = 0, 1

#: Most groups in one notice: MPI sends a short message before the receiver takes it.
_TOGETHER = 64


@dataclass
class Group:
    """Group of ranks, as the transport knows it.

    Attributes
    ----------
    receive : callable
        Called with each notice.
    awaited : set of int
        The ranks that this one receives from and that have not left yet.
    deadline : callable
        Returns the seconds that a rank of the group may be late.
    tag : int
        Tag of the group's data; 0 if it has none.
    beside : list of str
        Groups of the same ranks that end with it.
    left : bool
        Whether this rank has left the group.
    """

    receive: Callable[[Notice], None]
    awaited: set[int] = field(default_factory=set)
    deadline: Callable[[], float] = float
    tag: int = 0
    beside: list[str] = field(default_factory=list)
    left: bool = False


class Peers:
    """Ranks of one MPI communicator, which several groups share.

    Attributes
    ----------
    rank, size : int
        The own rank in the MPI communicator, and its size.
    groups : dict
        `Group` by id; notices of a group that does not exist yet wait until it is made.
    opened : int
        Number of communicators that were made of all ranks.
    retired : bool
        Whether no more will be made, so that the MPI communicator can be freed once all ranks have left.
    """

    def __init__(self, mpi: "MPI.Intracomm") -> None:
        self.rank, self.size = mpi.Get_rank(), mpi.Get_size()
        self.groups: dict[str, Group] = {}
        self.opened = 0
        self.retired = False
        self.lock: Deferred[Callable[[], object]] = Deferred(lambda finalizer: finalizer())
        self._mpi = mpi
        self._highest = int(mpi.Get_attr(MPI.TAG_UB) or 32767)  # the least that the standard allows
        self._unclaimed: dict[str, list[Notice]] = {}
        self._unsent: deque[tuple[Any, Any]] = deque()  # requests, with the bytes that they read, until they are done
        self._underway: set[_Underway] = set()  # MPI reads and writes these buffers, also after a wait was given up

    def tag_of(self, group: str) -> int:
        """Return the tag of a group's data; the headers distinguish groups that share a tag by chance."""
        return _FIRST + (int(group, 16) % (self._highest - _FIRST) + 1 if group else 0)

    def exchange(
        self, frame: Any, tag: int, targets: Sequence[int], rows: Mapping[int, Any], until: float,
        interrupted: Callable[[], bool],
    ) -> tuple[dict[int, Any], list[int]]:  # fmt: skip
        """Send a frame to some ranks while receiving one from others.

        Parameters
        ----------
        frame : bytes-like
            Must not change before this returns; after an early end, never.
        tag : int
        targets : sequence of int
        rows : mapping of int to writable buffer
            Buffer of each source, for a frame of exactly this length.
        until : float
            Time to give up, on `time.perf_counter`'s clock.
        interrupted : callable
            Returns whether something else ends the wait; called now and then, and at the end.

        Returns
        -------
        dict of int to bytes
            The frames of another length, by source.
        list of int
            The sources whose frame did not come and the targets that did not take theirs; empty in the normal case.
        """
        mine = _Underway(frame, rows)
        self._underway.add(mine)
        spec = [frame, MPI.BYTE]
        try:
            for target in targets:
                mine.sending[target] = self._mpi.Isend(spec, target, tag)
            probe, status = self._mpi.Improbe, MPI.Status()
            begun, polls = time.perf_counter(), 0
            while True:  # written out: most calls take a few polls, and nearly all of their time
                for source in tuple(mine.pending):
                    message = probe(source, tag, status)
                    if message is not None:
                        mine.receive(source, message, status.Get_count(MPI.BYTE))
                if not mine.pending and mine.done():
                    self._underway.discard(mine)
                    return mine.others, []
                polls += 1
                if (polls % _POLLS == 0 and interrupted()) or not pause(begun, until):
                    mine.done()  # a message that has come or gone is not missing
                    return mine.others, sorted({*mine.pending, *mine.receiving, *mine.sending})
        finally:
            mine.given_up = True  # has no effect where all messages have come and gone

    def notify(self, ranks: Sequence[int], done: Mapping[str, int], kind: str, text: str) -> None:
        """Send a notice about groups, given by id with the last collective completed; do not wait for its receipt."""
        items = list(done.items())
        with self.lock:
            for start in range(0, len(items), _TOGETHER):
                part = dict(items[start : start + _TOGETHER])
                frame = json.dumps({"done": part, "kind": kind, "text": text}).encode()
                self._unsent.extend((self._mpi.Isend([frame, MPI.BYTE], rank, _NOTICES), frame) for rank in ranks)
            self.delivered()

    def deliver_notices(self) -> None:
        """Read the notices of other ranks, and deliver them to their groups."""
        status, empty = MPI.Status(), 0
        with self.lock:
            while empty < 2:  # the first probe lets MPI make progress, the second sees the result
                message = self._mpi.Improbe(MPI.ANY_SOURCE, _NOTICES, status)
                if message is None:
                    empty += 1
                    continue
                frame = bytearray(status.Get_count(MPI.BYTE))
                source = status.Get_source()
                message.Recv([frame, MPI.BYTE])
                body = json.loads(frame)
                for group, sequence in body["done"].items():
                    self._deliver(group, Notice(source, sequence, body["kind"], body["text"]))

    def join(self, name: str, group: Group) -> None:
        """Deliver a group's notices from now on, and those that came before."""
        with self.lock:
            self.groups[name] = group
            for notice in self._unclaimed.pop(name, ()):
                self._deliver(name, notice)

    def leave(self, names: Sequence[str]) -> None:
        """Take no further part in groups, after the other ranks were notified; later notices are thrown away."""
        with self.lock:
            for name in names:
                if (group := self.groups.get(name)) is not None:
                    group.left = True
                    for each in (name, *group.beside):
                        self.groups[each].receive = _ignore
                    self._forget(name, group)

    def delivered(self) -> bool:
        """Return whether all notices, and all messages of collectives that were given up, have arrived."""
        with self.lock:
            for _ in range(len(self._unsent)):
                each = self._unsent.popleft()
                if not each[0].Test():
                    self._unsent.append(each)
            for underway in [each for each in self._underway if each.given_up]:
                if underway.done():
                    self._underway.discard(underway)
            return not self._unsent

    def all_delivered(self) -> bool:
        """Return `delivered`, after reading the notices of other ranks, which may wait for that."""
        self.deliver_notices()
        return self.delivered()

    def all_left(self) -> bool:
        """Return whether every rank that this one receives from has left the groups that this one has left."""
        self.deliver_notices()
        return not any(group.left and group.awaited for group in list(self.groups.values()))

    def give_back(self) -> bool:
        """Free the MPI communicator, if no group needs it any more; return whether it was freed."""
        self.deliver_notices()
        if not self.retired or self.groups or not self.delivered() or self._underway:
            return False
        self._mpi.Free()
        return True

    def _deliver(self, name: str, notice: Notice) -> None:
        group = self.groups.get(name)
        if group is None:
            self._unclaimed.setdefault(name, []).append(notice)
            return
        group.receive(notice)
        if notice.kind in LAST:
            group.awaited.discard(notice.rank)
            self._forget(name, group)

    def _forget(self, name: str, group: Group) -> None:
        """Forget a group that all ranks have left, with the messages of collectives that this rank gave up."""
        if not group.left or group.awaited or self.groups.pop(name, None) is None or not group.tag:
            return
        for each in group.beside:
            del self.groups[each]
        if any(other.tag == group.tag for other in self.groups.values()):
            return
        status = MPI.Status()
        while (message := self._mpi.Improbe(MPI.ANY_SOURCE, group.tag, status)) is not None:
            frame = bytearray(status.Get_count(MPI.BYTE))
            self._unsent.append((message.Irecv([frame, MPI.BYTE]), frame))


def _ignore(notice: Notice) -> None:
    pass


class _Underway:
    """Exchange under way: the messages still to come, those being received, and those being sent."""

    def __init__(self, frame: Any, rows: Mapping[int, Any]) -> None:
        self.pending = dict(rows)
        self.receiving: dict[int, Any] = {}
        self.sending: dict[int, Any] = {}
        self.others: dict[int, Any] = {}
        self.kept = [frame, rows]
        self.given_up = False  # set when `exchange` has returned or raised

    def receive(self, source: int, message: Any, length: int) -> None:
        """Begin to receive a frame; a long one needs the sender's help, so that it may never end."""
        row = self.pending.pop(source)
        if length != len(row):
            row = self.others[source] = bytearray(length)
        self.receiving[source] = message.Irecv([row, length, MPI.BYTE])

    def done(self) -> bool:
        """Return whether all messages that were begun have been received and sent."""
        for requests in (self.receiving, self.sending):
            for rank, request in tuple(requests.items()):
                if request.Test():
                    del requests[rank]
        return not (self.receiving or self.sending)
