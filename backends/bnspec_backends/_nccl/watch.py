"""Collectives in flight on a device: whether they went well, and a thread that ends those that cannot.

The host does not wait for a collective. What came with it, the headers of all ranks, is copied to page-locked memory
behind it and read when it has landed: at the next call, or by the thread, whichever is first. The thread looks every
50 ms: a rank that failed or left, one that is missing at the deadline and an error of NCCL's end the communicator. Then
it is aborted, which is the only way to free a stream that waits, and every further use raises.
"""

import contextlib
import json
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from cupy.cuda import nccl

from bnspec._errors import CollectiveMismatch, CollectiveTimeout
from bnspec_backends._facts import DO_THE_SAME, met_text, ranks_text, where
from bnspec_backends._frames import About
from bnspec_backends._health import ERRORS, Health
from bnspec_backends._nccl.control import Control
from bnspec_backends._nccl.flight import Flight, facts_at
from bnspec_backends._news import News, wait

__all__ = ["Watch"]

#: Seconds between two looks of the thread, and those that ranks have for telling that they wait too.
_EVERY, _ANSWER = 0.05, 0.5

#: Seconds of waiting after which a rank tells where it waits, so that ranks that wait in different layers notice;
#: half of the deadline where that is less.
_ASK = 1.0

#: Seconds that an abort waits for a call of NCCL's that another thread is in, before it is taken for stuck.
_PATIENCE = 1.0


class Watch:
    """What is in flight on one NCCL communicator.

    Attributes
    ----------
    health : Health
    known : dict
        From digests to the facts that they stand for.
    entering : tuple of About and int, or None
        The collective that the host is about to begin, while it compares it with the others.
    landed : int
        Sequence number of the last collective that went well.
    """

    def __init__(self, comm: Any, control: Control, number: int) -> None:
        self.control, self.number = control, number
        self.health = Health(self._told_of, () if control.whole else control.members)
        self.known: dict[bytes, Mapping[str, str]] = {}
        self.landed = 0
        self.calling = threading.Lock()  # held around calls of NCCL's
        self._comm = comm
        self._flights: deque[Flight] = deque()
        self._lock = threading.RLock()
        self.entering: tuple[About, int] | None = None  # what the host compares before it goes to the device
        self._waiting: dict[int, tuple[int, dict[str, str]]] = {}  # where other ranks told that they wait
        self._gone: list[News] = []
        self._told = 0  # the last collective of which this rank told that it waits there
        self._stop = threading.Event()
        thread = threading.Thread(target=_guard, args=(weakref.ref(self), self._stop), name="bnspec NCCL", daemon=True)
        thread.start()

    def add(self, flight: Flight) -> None:
        """From now on, look after this one too."""
        with self._lock:
            self._flights.append(flight)

    def land(self) -> None:
        """Read what came with the collectives that have landed."""
        with self._lock:
            while self._flights and self._flights[0].landed.done and self.health.well:
                flight = self._flights.popleft()
                if flight.agrees():
                    self.landed = flight.sequence
                else:
                    self._mismatch(flight.met(self.known))

    def look(self) -> None:
        """Land what can, and end what cannot."""
        with self._lock:
            self.land()
            if not self.health.well:
                return
            self._hear()
            if self._flights and self.health.well:
                self._overdue(self._flights[0])
            if self.health.well:
                self._ask_nccl()

    def settle(self) -> None:
        """Wait until nothing is in flight; raise what went wrong."""

        def settled() -> bool:
            self.land()
            return not self._flights or not self.health.well

        wait(settled, float("inf"))
        if self.health.error is not None:
            self.health.throw()

    def stop(self, *, abort: bool) -> None:
        """Look no more, and give the NCCL communicator back."""
        self._stop.set()
        with self._lock:
            self.health.closed = True
            self._flights.clear()
            if self.health.error is None:  # else it is aborted already
                self._end_nccl(self._comm.abort if abort else self._comm.destroy)

    def _told_of(self, kind: str, text: str) -> None:
        self._end_nccl(self._comm.abort)
        self.control.fail(ERRORS[kind], text)
        self._flights.clear()

    def _end_nccl(self, way: Any) -> None:
        free = self.calling.acquire(timeout=_PATIENCE)
        try:
            with contextlib.suppress(nccl.NcclError):
                way()
        finally:
            if free:
                self.calling.release()

    def _hear(self) -> None:
        """Act on what other ranks told."""
        failure = self.control.failure()
        if failure is not None:
            self.health.keep(str(failure), type(failure))
            return
        for news in self.control.hear():
            if news.kind == "waits":
                self._waiting[news.rank] = news.sequence, json.loads(news.text)
            else:
                self._gone.append(news)
        place = self._place()
        if place is None:
            return
        about, sequence = place
        for news in self._gone:
            if self._flights and news.sequence < sequence:
                self._end_for(news, self._flights[0])
                return
        if any(number >= sequence for number, _ in self._waiting.values()):
            self._tell_place(about, sequence)
        others = {rank: facts for rank, (number, facts) in self._waiting.items() if number == sequence}
        mine = facts_at(about, sequence)
        if any(facts != mine for facts in others.values()):
            self._mismatch({**others, self.number: mine})

    def _place(self) -> tuple[About, int] | None:
        """The collective that this rank waits in, on the device or before it."""
        if self._flights:
            flight = self._flights[0]
            return (flight.own, flight.sequence) if flight.reached.done else None
        return self.entering

    def _tell_place(self, about: About, sequence: int) -> None:
        if self._told < sequence:
            self._told = sequence
            self.control.tell(sequence, "waits", json.dumps(facts_at(about, sequence)))

    def _overdue(self, flight: Flight) -> None:
        """Time the oldest flight, from when the device has come to it."""
        if not flight.reached.done:
            return
        now = time.perf_counter()
        flight.since = now if flight.since is None else flight.since
        waited, deadline = now - flight.since, self.control.deadline
        if waited > min(_ASK, deadline / 2) and self.control.tells:
            self._tell_place(flight.own, flight.sequence)
        if waited <= deadline + (_ANSWER if self.control.tells else 0.0):
            return
        here = f"{where(flight.facts)} waited {deadline:g} s on rank {self.number}, and"
        expected = "every rank within the deadline"
        if not self.control.tells:
            do = "Find out which rank is elsewhere; a communicator made over MPI would name it."
            self.health.poison(f"{here} one did not arrive", expected, do, CollectiveTimeout)
            return
        waiting = {rank for rank, (number, _) in self._waiting.items() if number >= flight.sequence}
        missing = [rank for rank in self.control.members if rank not in waiting and rank != self.number]
        if missing:
            absent = ranks_text(missing)
            do = f"Find out what {absent} did instead, or give the communicator a longer deadline."
            self.health.poison(f"{here} {absent} did not arrive", expected, do, CollectiveTimeout)
        else:
            do = "Look at NCCL's own messages, with NCCL_DEBUG=INFO, and at the devices."
            self.health.poison(f"{here} NCCL did not finish, with every rank there", expected, do, CollectiveTimeout)

    def _end_for(self, news: News, flight: Flight) -> None:
        """End the collective that a rank that is gone will not take part in."""
        place = f"{where(flight.facts)} waited on rank {self.number}"
        if news.kind == "raised":
            self.health.poison(
                f"rank {news.rank} raised {news.text} while {place}",
                "every rank to reach every collective",
                f"Correct the error of rank {news.rank}; it is the cause of this one.",
            )
        else:
            self.health.poison(
                f"rank {news.rank} ended, while {place}",
                "every rank to take part in every collective",
                "Call the layers equally often on every rank; a rank without samples passes an empty batch.",
            )

    def _ask_nccl(self) -> None:
        try:
            self._comm.check_async_error()
        except nccl.NcclError as error:
            self.health.poison(
                f"NCCL failed on rank {self.number} after collective {self.landed}: {error}",
                "it to deliver",
                "Look at its own messages, with NCCL_DEBUG=INFO.",
                cause=error,
            )

    def _mismatch(self, facts: Mapping[int, Mapping[str, str]]) -> None:
        got = met_text(dict(sorted(facts.items())))
        self.health.poison(got, "the same on every rank", DO_THE_SAME, CollectiveMismatch)


def _guard(watch: "weakref.ref[Watch]", stop: threading.Event) -> None:
    """The thread: look now and then, for as long as there is something to look after."""
    while not stop.wait(_EVERY):
        found = watch()
        if found is None:
            return
        found.look()
        del found
