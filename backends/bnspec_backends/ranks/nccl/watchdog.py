"""Watchdog of the collectives that are pending on a device: it checks them, and ends those that cannot complete.

The host does not wait for a collective. The headers of all ranks are copied to page-locked memory behind it, and read
when it has ended: at the next call, or by the polling thread, whichever is first. The thread polls every 50 ms. A rank
that failed or left, a rank that is missing at the deadline, an error of NCCL and a fault of the device end the
communicator: it is aborted, which is the only way to free a stream that waits, and every further use raises.
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
from bnspec_backends.ranks.failure import ERRORS, FirstFailure
from bnspec_backends.ranks.headers import About
from bnspec_backends.ranks.nccl.control import Control
from bnspec_backends.ranks.nccl.faults import DeviceFault, NCCLFault, calling_nccl
from bnspec_backends.ranks.nccl.pending import PendingCollective, facts_at
from bnspec_backends.ranks.nccl.polling_thread import PollingThread
from bnspec_backends.ranks.notices import Notice, end_of
from bnspec_backends.ranks.waiting import wait

__all__ = ["OPEN", "Watchdog"]

#: Seconds of waiting after which a rank sends a notice of the collective it waits in, so that ranks that wait in
#: different layers find out; half of the deadline if that is less. And seconds after the deadline in which the other
#: ranks' notices may still come.
_PATIENCE, _ANSWER = 1.0, 0.5

#: Collectives that were given up. Devices may still write to their memory, so it is never used again.
_LOST: list[PendingCollective] = []

#: Watchdogs that have not stopped, in the order in which they began, which is the same on all ranks.
OPEN: "dict[Watchdog, None]" = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OPEN.clear)  # those are the parent's


class Watchdog:
    """Watchdog of the pending collectives of one NCCL communicator.

    Attributes
    ----------
    failure : FirstFailure
        The communicator's first failure.
    thread : PollingThread
        Owner of the NCCL communicator.
    known : dict
        Facts by digest.
    entering : tuple of About and int, or None
        The collective that the host is about to begin, while it compares it with the other ranks.
    completed : int
        Sequence number of the last collective that completed without a mismatch.
    """

    def __init__(self, thread: PollingThread, control: Control, number: int) -> None:
        self.thread, self.control, self.number = thread, control, number
        self.failure = FirstFailure(self._announce, () if control.whole else control.members)
        self.known: dict[bytes, Mapping[str, str]] = {}
        self.completed = 0
        self.entering: tuple[About, int] | None = None
        self._pending: deque[PendingCollective] = deque()
        self._lock = threading.RLock()
        self._waiting: dict[int, tuple[int, dict[str, str]]] = {}  # the collectives that other ranks wait in
        self._gone: list[Notice] = []
        self._notified = 0  # the last collective of which this rank sent a notice that it waits
        self._dropped = False
        OPEN[self] = None
        thread.start(self.poll)

    def add(self, pending: PendingCollective) -> None:
        """Watch a further collective."""
        with self._lock:
            self._pending.append(pending)

    def collect(self) -> None:
        """Check the headers of the collectives that have ended."""
        with self._lock:
            try:
                while self._pending and self.failure.usable and self._pending[0].has_ended():
                    pending = self._pending.popleft()
                    if pending.agrees():
                        self.completed = pending.sequence
                    else:
                        self._mismatch(pending.facts_of_ranks(self.known))
            except DeviceFault as fault:
                self._device_failed(fault)

    def _device_failed(self, fault: DeviceFault) -> None:
        self._broken(f"the device of rank {self.number} failed", fault)

    def poll(self) -> None:
        """Collect the collectives that have ended, and end those that cannot. Any error in here is a failure."""
        with self._lock:
            try:
                self.collect()
                for step in (self._read_notices, self._overdue, self._poll_nccl):
                    if self.failure.usable:
                        step()
                if self._dropped and not self.failure.closed:
                    self.stop(None)
            except DeviceFault as fault:  # whichever call of the device's meets it first
                self._device_failed(fault)
            except Exception as error:
                self._broken(f"rank {self.number} could not look after its collectives", error)

    def settle(self) -> None:
        """Wait until no collective is pending, or the communicator has failed."""

        def settled() -> bool:
            self.collect()
            return not self._pending or not self.failure.usable

        wait(settled, float("inf"))

    def stop(self, error: BaseException | None) -> None:
        """Stop watching, notify the other ranks, and end the NCCL communicator.

        Without an error it is destroyed as soon as the other ranks end theirs; with one, or after a failure, aborted.
        """
        self.collect()  # the other ranks need not give up a collective that this one has completed
        with contextlib.suppress(Exception):  # the other ranks have their deadlines
            self.control.notify(self.completed, *end_of(error))
        error = error if error is not None else self.failure.error
        self.failure.closed = True
        self.thread.end(abort=error is not None)
        self._give_up()
        with contextlib.suppress(Exception):
            self.control.close(error)
        OPEN.pop(self, None)

    def drop(self) -> None:
        """Leave `stop` to the thread, for a communicator that was dropped: from within a finalizer."""
        self._dropped = True

    def _announce(self, kind: str, text: str) -> None:
        self.control.fail(ERRORS[kind], text)
        self.thread.end(abort=True)
        self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            _LOST.extend(self._pending)
            self._pending.clear()

    def _read_notices(self) -> None:
        """Act on the notices of other ranks."""
        failure = self.control.failure()
        if failure is not None:
            self.failure.keep(str(failure), type(failure))
            return
        for notice in self.control.notices():
            if notice.kind == "waits":
                self._waiting[notice.rank] = notice.sequence, json.loads(notice.text)
            else:
                self._gone.append(notice)
        place = self._waits_in()
        if place is None:
            return
        about, sequence = place
        for notice in self._gone:
            if self._pending and notice.sequence < sequence:
                self.failure.record_gone(notice, f"{where(self._pending[0].facts)} waited on rank {self.number}")
                return
        if any(number >= sequence for number, _ in self._waiting.values()):
            self._notify_waiting(about, sequence)
        others = {rank: facts for rank, (number, facts) in self._waiting.items() if number == sequence}
        mine = facts_at(about, sequence)
        if any(facts != mine for facts in others.values()):
            self._mismatch({**others, self.number: mine})

    def _waits_in(self) -> tuple[About, int] | None:
        """Return the collective that this rank waits in, on the device or before it."""
        if self._pending:
            pending = self._pending[0]
            return (pending.own, pending.sequence) if pending.has_begun() else None
        return self.entering

    def _notify_waiting(self, about: About, sequence: int) -> None:
        if self._notified < sequence:
            self._notified = sequence
            self.control.notify(sequence, "waits", json.dumps(facts_at(about, sequence)), everybody=True)

    def _overdue(self) -> None:
        """Time the oldest pending collective, from when the device has begun it."""
        pending = self._pending[0] if self._pending else None
        if pending is None or not pending.has_begun():
            return
        now = time.perf_counter()
        pending.since = now if pending.since is None else pending.since
        waited, deadline = now - pending.since, self.control.deadline
        if waited > min(_PATIENCE, deadline / 2):
            self._notify_waiting(pending.own, pending.sequence)
        if waited <= deadline + _ANSWER:
            return
        here = f"{where(pending.facts)} waited {deadline:g} s on rank {self.number}"
        waiting = {rank for rank, (number, _) in self._waiting.items() if number >= pending.sequence}
        missing = [rank for rank in self.control.members if rank not in waiting and rank != self.number]
        if missing:
            self.failure.record_late(missing, here)
        else:
            do = "Look at NCCL's own messages, with NCCL_DEBUG=INFO, and at the devices."
            got = f"{here}, and NCCL did not finish, with every rank there"
            self.failure.record(got, "every rank within the deadline", do, CollectiveTimeout)

    def _poll_nccl(self) -> None:
        if not self.thread.calling.acquire(blocking=False):
            return  # the next poll will do it
        try:
            with calling_nccl():
                self.thread.comm.check_async_error()
        except NCCLFault as error:
            self._broken(f"NCCL failed on rank {self.number} after collective {self.completed}", error)
        finally:
            self.thread.calling.release()

    def _broken(self, what: str, error: Exception) -> None:
        do = "Look at the messages of NCCL, with NCCL_DEBUG=INFO, and of the devices."
        self.failure.record(f"{what}: {error_text(error)}", "it to work", do, cause=error)

    def _mismatch(self, facts: Mapping[int, Mapping[str, str]]) -> None:
        got = met_text(dict(sorted(facts.items())))
        self.failure.record(got, "the same on every rank", DO_THE_SAME, CollectiveMismatch)
