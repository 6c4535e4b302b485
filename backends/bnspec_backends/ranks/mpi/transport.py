"""Frames and news between the ranks of one MPI communicator; every wait of theirs ends.

MPI's own collectives neither notice that a rank is missing nor that two ranks mean different things, and a message of
another length than expected ends the job. So frames travel as single messages of any length, received by probing, and
a wait that lasts too long is over. News say that a rank failed or left; they have a tag of their own, and whoever
looks for them hands them to the groups that they are about.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

from bnspec_backends._deferred import Deferred
from bnspec_backends.ranks.notices import LAST, News, pause

__all__ = ["Group", "Peers"]

#: How many looks at the frames there are for one at the news.
_LOOKS = 16

#: Tags of news and of the whole communicator's frames; those of groups lie above.
_NEWS, _FIRST = 0, 1

#: Groups that one message has news of: short ones are sent before anybody takes them.
_TOGETHER = 64


@dataclass
class Group:
    """What is known of one group of ranks.

    Attributes
    ----------
    hear : callable
        Is given its news.
    awaited : set of int
        The ranks that this one hears and that have not left yet.
    deadline : callable
        Seconds that a rank of it may be late.
    tag : int
        That of its frames; 0 where it has none.
    beside : list of str
        Groups of the same ranks that end with it.
    left : bool
        Whether this rank has.
    """

    hear: Callable[[News], None]
    awaited: set[int] = field(default_factory=set)
    deadline: Callable[[], float] = float
    tag: int = 0
    beside: list[str] = field(default_factory=list)
    left: bool = False


class Peers:
    """The ranks of one MPI communicator, which several groups share.

    Attributes
    ----------
    rank, size : int
        The own rank in the MPI communicator, and its size.
    groups : dict
        From a group's id to what is known of it; news of one that is not there yet wait until it is made.
    opened : int
        How many communicators were made of all ranks.
    retired : bool
        Whether no more will be, so that the MPI communicator can be given back once all have left.
    """

    def __init__(self, mpi: "MPI.Intracomm") -> None:
        self.rank, self.size = mpi.Get_rank(), mpi.Get_size()
        self.groups: dict[str, Group] = {}
        self.opened = 0
        self.retired = False
        self.lock: Deferred[Callable[[], object]] = Deferred(lambda finalizer: finalizer())
        self._mpi = mpi
        self._highest = int(mpi.Get_attr(MPI.TAG_UB) or 32767)  # the least that the standard allows
        self._unclaimed: dict[str, list[News]] = {}
        self._told: deque[tuple[Any, Any]] = deque()  # requests with the bytes they work on, until they are done
        self._underway: set[_Underway] = set()  # MPI reads from and writes to these, whatever becomes of the wait

    def tag_of(self, group: str) -> int:
        """The tag of a group's frames; groups that share one by chance are told apart by what their frames say."""
        return _FIRST + (int(group, 16) % (self._highest - _FIRST) + 1 if group else 0)

    def exchange(
        self, frame: Any, tag: int, targets: Sequence[int], rows: Mapping[int, Any], until: float,
        interrupted: Callable[[], bool],
    ) -> tuple[dict[int, Any], list[int]]:  # fmt: skip
        """Send a frame to some ranks while receiving one from others.

        Parameters
        ----------
        frame : bytes-like
            Not to be written to until this returns; if it ends early, never.
        tag : int
        targets : sequence of int
        rows : mapping of int to writable buffer
            Where the frame of each source goes if it has exactly this length.
        until : float
            When to give up, on `time.perf_counter`'s clock.
        interrupted : callable
            Whether something else ends the wait; asked now and then, and at the end.

        Returns
        -------
        dict of int to bytes
            The frames of another length, by source.
        list of int
            The sources whose frame did not come and the targets that did not take theirs; empty if all is well.
        """
        mine = _Underway(frame, rows)
        self._underway.add(mine)
        spec = [frame, MPI.BYTE]
        try:
            for target in targets:
                mine.sending[target] = self._mpi.Isend(spec, target, tag)
            probe, status = self._mpi.Improbe, MPI.Status()
            begun, looks = time.perf_counter(), 0
            while True:  # written out: in most calls this is a few looks, and they are what a call waits for
                for source in tuple(mine.pending):
                    message = probe(source, tag, status)
                    if message is not None:
                        mine.receive(source, message, status.Get_count(MPI.BYTE))
                if not mine.pending and mine.done():
                    self._underway.discard(mine)
                    return mine.others, []
                looks += 1
                if (looks % _LOOKS == 0 and interrupted()) or not pause(begun, until):
                    mine.done()  # what has come or gone is not missing
                    return mine.others, sorted({*mine.pending, *mine.receiving, *mine.sending})
        finally:
            mine.given_up = True  # unless all is well

    def tell(self, ranks: Sequence[int], done: Mapping[str, int], kind: str, text: str) -> None:
        """Send news about some groups, given by id with the last collective completed; nobody need read them."""
        items = list(done.items())
        with self.lock:
            for start in range(0, len(items), _TOGETHER):
                part = dict(items[start : start + _TOGETHER])
                frame = json.dumps({"done": part, "kind": kind, "text": text}).encode()
                self._told.extend((self._mpi.Isend([frame, MPI.BYTE], rank, _NEWS), frame) for rank in ranks)
            self.delivered()

    def hand_out_news(self) -> None:
        """Read what other ranks told, and hand it to the groups that it is about."""
        status, empty = MPI.Status(), 0
        with self.lock:
            while empty < 2:  # one look reports what was there before MPI made progress, the second what there is
                message = self._mpi.Improbe(MPI.ANY_SOURCE, _NEWS, status)
                if message is None:
                    empty += 1
                    continue
                frame = bytearray(status.Get_count(MPI.BYTE))
                source = status.Get_source()
                message.Recv([frame, MPI.BYTE])
                body = json.loads(frame)
                for group, sequence in body["done"].items():
                    self._hand_out(group, News(source, sequence, body["kind"], body["text"]))

    def join(self, name: str, group: Group) -> None:
        """Hand a group its news from now on, and those that came before."""
        with self.lock:
            self.groups[name] = group
            for news in self._unclaimed.pop(name, ()):
                self._hand_out(name, news)

    def leave(self, names: Sequence[str]) -> None:
        """Take no further part in groups, of which the others have been told; what still comes is thrown away."""
        with self.lock:
            for name in names:
                if (group := self.groups.get(name)) is not None:
                    group.left = True
                    for each in (name, *group.beside):
                        self.groups[each].hear = _ignore
                    self._forget(name, group)

    def delivered(self) -> bool:
        """Whether all news, and what came of collectives that were given up, have reached their ends."""
        with self.lock:
            for _ in range(len(self._told)):
                each = self._told.popleft()
                if not each[0].Test():
                    self._told.append(each)
            for underway in [each for each in self._underway if each.given_up]:
                if underway.done():
                    self._underway.discard(underway)
            return not self._told

    def all_delivered(self) -> bool:
        """The same, while others' news are read, who may be waiting for that."""
        self.hand_out_news()
        return self.delivered()

    def all_left(self) -> bool:
        """Whether every rank that this one hears has left every group that this one has left."""
        self.hand_out_news()
        return not any(group.left and group.awaited for group in list(self.groups.values()))

    def give_back(self) -> bool:
        """Free the MPI communicator, if it is not needed any more; whether it was freed."""
        self.hand_out_news()
        if not self.retired or self.groups or not self.delivered() or self._underway:
            return False
        self._mpi.Free()
        return True

    def _hand_out(self, name: str, news: News) -> None:
        group = self.groups.get(name)
        if group is None:
            self._unclaimed.setdefault(name, []).append(news)
            return
        group.hear(news)
        if news.kind in LAST:
            group.awaited.discard(news.rank)
            self._forget(name, group)

    def _forget(self, name: str, group: Group) -> None:
        """Forget a group that all have left, with the frames of collectives that this rank gave up."""
        if not group.left or group.awaited or self.groups.pop(name, None) is None or not group.tag:
            return
        for each in group.beside:
            del self.groups[each]
        if any(other.tag == group.tag for other in self.groups.values()):
            return
        status = MPI.Status()
        while (message := self._mpi.Improbe(MPI.ANY_SOURCE, group.tag, status)) is not None:
            frame = bytearray(status.Get_count(MPI.BYTE))
            self._told.append((message.Irecv([frame, MPI.BYTE]), frame))


def _ignore(news: News) -> None:
    pass


class _Underway:
    """One exchange: what is still to come, what is coming, and what is going."""

    def __init__(self, frame: Any, rows: Mapping[int, Any]) -> None:
        self.pending = dict(rows)
        self.receiving: dict[int, Any] = {}
        self.sending: dict[int, Any] = {}
        self.others: dict[int, Any] = {}
        self.kept = [frame, rows]
        self.given_up = False  # nobody waits for it any more

    def receive(self, source: int, message: Any, length: int) -> None:
        """Begin to receive a frame; a long one takes the sender's help, so that it may never end."""
        row = self.pending.pop(source)
        if length != len(row):
            row = self.others[source] = bytearray(length)
        self.receiving[source] = message.Irecv([row, length, MPI.BYTE])

    def done(self) -> bool:
        """Whether all that was begun has come and gone."""
        for requests in (self.receiving, self.sending):
            for rank, request in tuple(requests.items()):
                if request.Test():
                    del requests[rank]
        return not (self.receiving or self.sending)
