"""Rendezvous of the ranks of one thread communicator: deposits, their comparison, and the failures of a meeting."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from bnspec._errors import CollectiveMismatch
from bnspec_backends.ranks.facts import DO_THE_SAME, differences_of, error_text, layers_text, met_text, where
from bnspec_backends.ranks.failure import FirstFailure

__all__ = ["Rendezvous", "Run"]


class Run(Protocol):
    """Run of threads that a rendezvous belongs to."""

    deadline: float
    members: tuple[int, ...]

    def register(self, rendezvous: "Rendezvous") -> None:
        """Let the rendezvous know, from now on, of every rank that ends."""
        ...


class _Deposit(NamedTuple):
    facts: Mapping[str, str]  # facts that must be equal on all ranks, as text
    payload: Any


class _Meeting:
    """Meeting of the ranks in one collective: their deposits, and the results."""

    def __init__(self) -> None:
        self.deposits: dict[int, _Deposit] = {}
        self.results: list[Any] | None = None


class Rendezvous:
    """Meeting point of a communicator's ranks. `places` count its ranks, `members` are their numbers in `run`."""

    def __init__(self, run: Run, members: Sequence[int]) -> None:
        self.run = run
        self.members = tuple(members)
        self.condition = threading.Condition()
        self.meeting = _Meeting()
        self.calls = [0] * len(self.members)  # collectives each rank entered
        self.returned: list[int] = []
        self.failure = FirstFailure(self._wake, () if self.members == run.members else self.members)
        self.failure.reported = True  # each rank that waits raises it; a later call only refers to it
        run.register(self)

    def part(self, places: Sequence[int]) -> "Rendezvous":
        """Return a rendezvous of some of the ranks."""
        return Rendezvous(self.run, [self.members[place] for place in places])

    def meet(
        self,
        place: int,
        payload: Any,
        describe: Callable[[], dict[str, str]],
        finish: Callable[[list[Any]], list[Any]],
    ) -> Any:
        """Wait for all ranks, and return this rank's result.

        Parameters
        ----------
        place : int
            The calling rank's place.
        payload : object
        describe : callable
            Returns the facts that must be equal on all ranks.
        finish : callable
            Turns the payloads into the results, both in the order of the places; called by the rank that comes last.
        """
        with self.condition:
            self.calls[place] += 1
            try:
                facts = {"sequence number": str(self.calls[place]), **describe()}
            except Exception as error:
                self._rank_failed(place, error)
                raise
            if not self.failure.usable:
                self.failure.refuse(f"rank {self.members[place]} cannot enter {where(facts)}")
            meeting = self.meeting
            if place in meeting.deposits:
                self.failure.record(
                    f"rank {self.members[place]} entered {where(facts)} on one thread while it waits on another",
                    "one collective at a time on each rank",
                    "Give each thread a communicator of its own with split().",
                )
            meeting.deposits[place] = _Deposit(facts, payload)
            if self.returned:
                self._fail_returned()
            elif len(meeting.deposits) == len(self.members):
                self._finish(meeting, place, finish)
            elif not self.condition.wait_for(
                lambda: meeting.results is not None or self.failure.error, self.run.deadline
            ):
                self._fail_late(meeting)
            if meeting.results is None:
                self.failure.throw()
            return meeting.results[place]

    def leave(self, place: int, error: BaseException | None) -> None:
        """Note that a rank's function ended: ranks that wait for it, now or later, must not wait for the deadline."""
        with self.condition:
            if error is not None:
                self._rank_failed(place, error)
                return
            self.returned.append(place)
            if self.meeting.deposits:
                self._fail_returned()

    def interrupt(self, error: BaseException) -> None:
        """Fail, since the caller of `run` was interrupted."""
        with self.condition:
            got = f"the caller of run ended with {error_text(error)}"
            self.failure.record(got, "it to wait", "Start again.", cause=error)

    # Everything below runs with the condition held. So does the fold: the ranks that wait have nothing else to do.

    def _wake(self, kind: str, text: str) -> None:
        self.condition.notify_all()

    def _finish(self, meeting: _Meeting, place: int, finish: Callable[[list[Any]], list[Any]]) -> None:
        deposits = [meeting.deposits[each] for each in range(len(self.members))]
        facts = dict(zip(self.members, (deposit.facts for deposit in deposits)))
        if differences_of(facts):
            self.failure.record(met_text(facts), "the same on every rank", DO_THE_SAME, kind=CollectiveMismatch)
            return
        try:
            meeting.results = finish([deposit.payload for deposit in deposits])
        except BaseException as error:
            self._rank_failed(place, error)
            raise
        self.meeting = _Meeting()
        self.condition.notify_all()

    def _rank_failed(self, place: int, error: BaseException) -> None:
        waiting = self.meeting.deposits.keys() - {place}
        waited = f"{self._layers(self.meeting)} waited" if waiting else ""
        self.failure.record_raised(self.members[place], error_text(error), waited, cause=error)

    def _fail_returned(self) -> None:
        gone = [self.members[place] for place in self.returned]
        waited = f"{self._layers(self.meeting)} waited"
        self.failure.record_ended(gone, waited, "returned from the function given to run")

    def _fail_late(self, meeting: _Meeting) -> None:
        absent = [rank for place, rank in enumerate(self.members) if place not in meeting.deposits]
        waited = f"{self._layers(meeting)} waited up to {self.run.deadline:g} s"
        self.failure.record_late(absent, waited, longer="run")

    def _layers(self, meeting: _Meeting) -> str:
        return layers_text({self.members[place]: deposit.facts for place, deposit in sorted(meeting.deposits.items())})
