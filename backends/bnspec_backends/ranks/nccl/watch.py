"""Collectives in flight on a device: whether they went well, and an end to those that cannot.

The host does not wait for a collective. What came with it, the headers of all ranks, is copied to page-locked memory
behind it and read when it has landed: at the next call, or by the keeper's thread, whichever is first. The thread looks
every 50 ms: a rank that failed or left, one that is missing at the deadline, an error of NCCL's and a fault of the
device end the communicator. Then it is aborted, which is the only way to free a stream that waits, and every further
use raises.
"""

import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping

from bnspec._errors import CollectiveMismatch, CollectiveTimeout
from bnspec_backends.ranks.facts import DO_THE_SAME, error_text, met_text, where
from bnspec_backends.ranks.failure import ERRORS, Health
from bnspec_backends.ranks.headers import About
from bnspec_backends.ranks.nccl.control import Control
from bnspec_backends.ranks.nccl.faults import DeviceFault, NCCLFault, calling_nccl, passed
from bnspec_backends.ranks.nccl.flight import Flight, facts_at
from bnspec_backends.ranks.nccl.keeper import Keeper
from bnspec_backends.ranks.notices import News, reason_of, wait

__all__ = ["OPEN", "Watch"]

#: Seconds of waiting after which a rank tells where it waits, so that ranks that wait in different layers notice;
#: half of the deadline where that is less. And those that the others have, after the deadline, for telling it too.
_ASK, _ANSWER = 1.0, 0.5

#: Flights that were given up. Devices may still write to their memory, so it is never used again.
_LOST: list[Flight] = []

#: The watches that have not stopped, in the order in which they began, which is the same on all ranks.
OPEN: "dict[Watch, None]" = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OPEN.clear)  # they are the parent's


class Watch:
    """What is in flight on one NCCL communicator.

    Attributes
    ----------
    health : Health
    keeper : Keeper
    known : dict
        From digests to the facts that they stand for.
    entering : tuple of About and int, or None
        The collective that the host is about to begin, while it compares it with the others.
    landed : int
        Sequence number of the last collective that went well.
    """

    def __init__(self, keeper: Keeper, control: Control, number: int) -> None:
        self.keeper, self.control, self.number = keeper, control, number
        self.health = Health(self._told_of, () if control.whole else control.members)
        self.known: dict[bytes, Mapping[str, str]] = {}
        self.landed = 0
        self.entering: tuple[About, int] | None = None
        self._flights: deque[Flight] = deque()
        self._lock = threading.RLock()
        self._waiting: dict[int, tuple[int, dict[str, str]]] = {}  # where other ranks told that they wait
        self._gone: list[News] = []
        self._told = 0  # the last collective of which this rank told that it waits there
        self._dropped = False
        OPEN[self] = None
        keeper.start(self.look)

    def add(self, flight: Flight) -> None:
        """From now on, look after this one too."""
        with self._lock:
            self._flights.append(flight)

    def land(self) -> None:
        """Read what came with the collectives that have landed."""
        with self._lock:
            try:
                while self._flights and self.health.well and self._flights[0].over():
                    flight = self._flights.popleft()
                    if flight.agrees():
                        self.landed = flight.sequence
                    else:
                        self._mismatch(flight.met(self.known))
            except DeviceFault as fault:
                self._broken(f"the device of rank {self.number} failed", fault)

    def look(self) -> None:
        """Land what can, and end what cannot. Nothing that goes wrong here goes unnoticed."""
        with self._lock:
            try:
                self.land()
                for step in (self._hear, self._overdue, self._ask_nccl):
                    if self.health.well:
                        step()
                if self._dropped and not self.health.closed:
                    self.stop(None)
            except Exception as error:
                self._broken(f"rank {self.number} could not look after its collectives", error)

    def settle(self) -> None:
        """Wait until nothing is in flight, or something went wrong."""

        def settled() -> bool:
            self.land()
            return not self._flights or not self.health.well

        wait(settled, float("inf"))

    def stop(self, error: BaseException | None) -> None:
        """Look no more, tell the others, and have the NCCL communicator given back, as soon as they let it go too.

        With an error, or after one, it is aborted.
        """
        self.land()  # the others need not give up what this rank has completed
        with contextlib.suppress(Exception):  # the others' deadlines remain
            self.control.tell(self.landed, *reason_of(error))
        error = error if error is not None else self.health.error
        self.health.closed = True
        self.keeper.end(abort=error is not None)
        self._give_up()
        with contextlib.suppress(Exception):
            self.control.close(error)
        OPEN.pop(self, None)

    def drop(self) -> None:
        """Leave the same to the thread, for a communicator that nobody has any more: from within a finalizer."""
        self._dropped = True

    def _told_of(self, kind: str, text: str) -> None:
        self.control.fail(ERRORS[kind], text)
        self.keeper.end(abort=True)
        self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            _LOST.extend(self._flights)
            self._flights.clear()

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
                self.health.poison_gone(news, f"{where(self._flights[0].facts)} waited on rank {self.number}")
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
            return (flight.own, flight.sequence) if passed(flight.reached) else None
        return self.entering

    def _tell_place(self, about: About, sequence: int) -> None:
        if self._told < sequence:
            self._told = sequence
            self.control.tell(sequence, "waits", json.dumps(facts_at(about, sequence)), everybody=True)

    def _overdue(self) -> None:
        """Time the oldest flight, from when the device has come to it."""
        flight = self._flights[0] if self._flights else None
        if flight is None or not passed(flight.reached):
            return
        now = time.perf_counter()
        flight.since = now if flight.since is None else flight.since
        waited, deadline = now - flight.since, self.control.deadline
        if waited > min(_ASK, deadline / 2) and self.control.tells:
            self._tell_place(flight.own, flight.sequence)
        if waited <= deadline + (_ANSWER if self.control.tells else 0.0):
            return
        here = f"{where(flight.facts)} waited {deadline:g} s on rank {self.number}"
        expected = "every rank within the deadline"
        if not self.control.tells:
            do = "Find out which rank is elsewhere; a communicator made over MPI would name it."
            self.health.poison(f"{here}, and one did not arrive", expected, do, CollectiveTimeout)
            return
        waiting = {rank for rank, (number, _) in self._waiting.items() if number >= flight.sequence}
        missing = [rank for rank in self.control.members if rank not in waiting and rank != self.number]
        if missing:
            self.health.poison_late(missing, here)
        else:
            do = "Look at NCCL's own messages, with NCCL_DEBUG=INFO, and at the devices."
            self.health.poison(
                f"{here}, and NCCL did not finish, with every rank there", expected, do, CollectiveTimeout
            )

    def _ask_nccl(self) -> None:
        if not self.keeper.calling.acquire(blocking=False):
            return  # there will be another look
        try:
            with calling_nccl():
                self.keeper.comm.check_async_error()
        except NCCLFault as error:
            self._broken(f"NCCL failed on rank {self.number} after collective {self.landed}", error)
        finally:
            self.keeper.calling.release()

    def _broken(self, what: str, error: Exception) -> None:
        do = "Look at the messages of NCCL, with NCCL_DEBUG=INFO, and of the devices."
        self.health.poison(f"{what}: {error_text(error)}", "it to work", do, cause=error)

    def _mismatch(self, facts: Mapping[int, Mapping[str, str]]) -> None:
        got = met_text(dict(sorted(facts.items())))
        self.health.poison(got, "the same on every rank", DO_THE_SAME, CollectiveMismatch)
