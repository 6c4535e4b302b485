"""Frames and news between the ranks of one MPI communicator; every wait of theirs ends.

MPI's own collectives neither notice that a rank is missing nor that two ranks mean different things, and a message of
another length than expected ends the job. So frames travel as single messages of any length, received by probing, and
a wait that lasts too long is over. News say that a rank failed or left; they have a tag of their own, and whoever
looks for them hands them to the groups that they are about.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mpi4py import MPI

from bnspec_backends._news import News, pause, wait

__all__ = ["Peers"]

#: How many looks at the frames there are for one at the news.
_LOOKS = 16

#: Tags of news and of the whole communicator's frames; those of groups lie above.
_NEWS, _FIRST = 0, 1


class Peers:
    """The ranks of one MPI communicator, which several groups share.

    Attributes
    ----------
    rank, size : int
        The own rank in the MPI communicator, and its size.
    groups : dict
        From a group's id to what hears its news; a group that is not there yet gets them when it is made.
    """

    def __init__(self, mpi: "MPI.Intracomm") -> None:
        self.rank, self.size = mpi.Get_rank(), mpi.Get_size()
        self.groups: dict[str, Callable[[News], None]] = {}
        self._mpi = mpi
        self._lock = threading.RLock()  # a group that is collected as garbage leaves wherever that happens
        self._highest = int(mpi.Get_attr(MPI.TAG_UB) or 32767)  # the least that the standard allows
        self._unclaimed: dict[str, list[News]] = {}
        self._told: list[Any] = []  # requests with the bytes they read from, until they are done
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

    def tell(self, ranks: Sequence[int], done: Mapping[str, int], kind: str, text: str) -> None:
        """Send news about some groups, given by id with the last collective completed; nobody need read them."""
        frame = json.dumps({"done": dict(done), "kind": kind, "text": text}).encode()
        with self._lock:
            self._told.append(([self._mpi.Isend([frame, MPI.BYTE], rank, _NEWS) for rank in ranks], frame))
            self._told = [each for each in self._told if not MPI.Request.Testall(each[0])]

    def hand_out_news(self) -> None:
        """Read what other ranks told, and hand it to the groups that it is about."""
        status, empty = MPI.Status(), 0
        with self._lock:
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
                    news = News(source, sequence, body["kind"], body["text"])
                    if group in self.groups:
                        self.groups[group](news)
                    else:
                        self._unclaimed.setdefault(group, []).append(news)

    def join(self, group: str, hear: Callable[[News], None]) -> None:
        """Hand a group's news to `hear` from now on, and those that came before."""
        with self._lock:
            self.groups[group] = hear
            for news in self._unclaimed.pop(group, ()):
                hear(news)

    def leave(self, group: str) -> None:
        """Nobody hears a group's news any more."""
        with self._lock:
            self.groups[group] = _ignore

    def flush(self, until: float) -> None:
        """Wait until the news have been taken, or the time is up."""
        wait(lambda: all(MPI.Request.Testall(requests) for requests, _ in self._told), until)


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
