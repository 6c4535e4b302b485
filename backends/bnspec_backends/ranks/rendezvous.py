"""Where the ranks of one thread communicator meet: deposits, comparison, and every way a meeting can fail."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends.ranks.facts import (
    DO_THE_SAME,
    differences_of,
    error_text,
    layers_text,
    met_text,
    ranks_text,
    where,
)

__all__ = ["Hub", "Session"]


class Session(Protocol):
    """What a hub needs of the run it belongs to."""

    deadline: float
    members: tuple[int, ...]

    def register(self, hub: "Hub") -> None:
        """Tell the hub, from now on, of every rank that ends."""
        ...


class _Deposit(NamedTuple):
    facts: Mapping[str, str]  # what must be equal on all ranks, as text
    payload: Any


class _Meeting:
    """One collective: who came, and how it ended."""

    def __init__(self) -> None:
        self.deposits: dict[int, _Deposit] = {}
        self.results: list[Any] | None = None


class Hub:
    """Where the ranks of one communicator meet. `places` count its ranks, `members` are their numbers in `run`."""

    def __init__(self, session: Session, members: Sequence[int]) -> None:
        self.session = session
        self.members = tuple(members)
        self.condition = threading.Condition()
        self.meeting = _Meeting()
        self.calls = [0] * len(self.members)  # collectives each rank entered
        self.returned: list[int] = []
        self.error: CommunicatorError | None = None  # the first failure; set once
        self.cause: BaseException | None = None  # what a rank raised, where that was the failure
        session.register(self)

    def part(self, places: Sequence[int]) -> "Hub":
        return Hub(self.session, [self.members[place] for place in places])

    def meet(
        self,
        place: int,
        payload: Any,
        describe: Callable[[], dict[str, str]],
        finish: Callable[[list[Any]], list[Any]],
    ) -> Any:
        with self.condition:
            self.calls[place] += 1
            try:
                facts = {"sequence number": str(self.calls[place]), **describe()}
            except Exception as error:
                self._rank_failed(place, error)
                raise
            if self.error is not None:
                here = f"rank {self.members[place]} cannot enter {where(facts)}"
                raise CommunicatorError(f"{here}: this communicator failed before: {self.error}") from (
                    self.cause or self.error
                )
            meeting = self.meeting
            if place in meeting.deposits:
                self._fail(
                    f"rank {self.members[place]} entered {where(facts)} on one thread while it waits on another",
                    "one collective at a time on each rank",
                    "Give each thread a communicator of its own with split().",
                )
            meeting.deposits[place] = _Deposit(facts, payload)
            if self.returned:
                self._fail_returned()
            elif len(meeting.deposits) == len(self.members):
                self._finish(meeting, place, finish)
            elif not self.condition.wait_for(lambda: meeting.results is not None or self.error, self.session.deadline):
                self._fail_late(meeting)
            if meeting.results is None:
                self._raise()
            return meeting.results[place]

    def leave(self, place: int, error: BaseException | None) -> None:
        """A rank's function ended: those who wait for it now, or will, must not wait for the deadline."""
        with self.condition:
            if error is not None:
                self._rank_failed(place, error)
                return
            self.returned.append(place)
            if self.meeting.deposits:
                self._fail_returned()

    def interrupt(self, error: BaseException) -> None:
        with self.condition:
            self._fail(f"the caller of run ended with {error_text(error)}", "it to wait", "Start again.", cause=error)

    # Everything below runs with the condition held. The fold does too: those who wait have nothing else to do.

    def _finish(self, meeting: _Meeting, place: int, finish: Callable[[list[Any]], list[Any]]) -> None:
        deposits = [meeting.deposits[each] for each in range(len(self.members))]
        facts = dict(zip(self.members, (deposit.facts for deposit in deposits)))
        if differences_of(facts):
            self._fail(met_text(facts), "the same on every rank", DO_THE_SAME, kind=CollectiveMismatch)
            return
        try:
            meeting.results = finish([deposit.payload for deposit in deposits])
        except BaseException as error:
            self._rank_failed(place, error)
            raise
        self.meeting = _Meeting()
        self.condition.notify_all()

    def _fail(
        self,
        got: str,
        expected: str,
        do: str,
        kind: type[CommunicatorError] = CommunicatorError,
        cause: BaseException | None = None,
    ) -> None:
        if self.error is None:
            if self.members != self.session.members:
                got = f"in the part of {ranks_text(self.members)}: {got}"
            error = refusal(kind, "BN-SYNC-9", got=got, expected=expected, do=do)
            assert isinstance(error, CommunicatorError)
            self.error, self.cause = error, cause
            self.condition.notify_all()

    def _raise(self) -> NoReturn:
        """Raise the failure, a new exception on each rank: a traceback belongs to one thread."""
        assert self.error is not None
        raise type(self.error)(str(self.error)) from self.cause

    def _rank_failed(self, place: int, error: BaseException) -> None:
        waiting = self.meeting.deposits.keys() - {place}
        where = f" while {self._layers(self.meeting)} waited" if waiting else ""
        self._fail(
            f"rank {self.members[place]} raised {error_text(error)}{where}",
            "every rank to reach every collective",
            f"Correct the error of rank {self.members[place]}; it is the cause of this one.",
            cause=error,
        )

    def _fail_returned(self) -> None:
        gone = ranks_text([self.members[place] for place in self.returned])
        self._fail(
            f"{gone} returned from the function given to run, while {self._layers(self.meeting)} waited",
            "every rank to take part in every collective",
            "Call the layers equally often on every rank; a rank without samples passes an empty batch.",
        )

    def _fail_late(self, meeting: _Meeting) -> None:
        absent = ranks_text([rank for place, rank in enumerate(self.members) if place not in meeting.deposits])
        self._fail(
            f"{self._layers(meeting)} waited up to {self.session.deadline:g} s, and {absent} did not arrive",
            "every rank within the deadline",
            f"Find out what {absent} did instead, or give run a longer deadline.",
            kind=CollectiveTimeout,
        )

    def _layers(self, meeting: _Meeting) -> str:
        return layers_text({self.members[place]: deposit.facts for place, deposit in sorted(meeting.deposits.items())})
