"""First failure of a communicator: kept once, announced to the other ranks, and raised by every further call."""

import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends.ranks.facts import ranks_text
from bnspec_backends.ranks.notices import Notice

__all__ = ["ERRORS", "FirstFailure"]

#: Types of failures, by the names that notices carry.
ERRORS = {kind.__name__: kind for kind in (CommunicatorError, CollectiveMismatch, CollectiveTimeout)}


class FirstFailure:
    """First failure of one rank's end of a communicator, and whether that end is closed.

    Parameters
    ----------
    announce : callable
        ``announce(kind, text)`` is called once, with the first failure.
    part : sequence of int, optional
        The ranks of a communicator that is a part of another, which texts then name.

    Attributes
    ----------
    error : CommunicatorError or None
        The first failure.
    closed : bool
        Whether this rank takes no further part.
    reported : bool
        Whether a caller has got `error`.
    """

    def __init__(self, announce: Callable[[str, str], None], part: Sequence[int] = ()) -> None:
        self.error: CommunicatorError | None = None
        self.closed = False
        self.reported = False
        self._announce, self._part = announce, part
        self._lock = threading.Lock()

    @property
    def usable(self) -> bool:
        """True if the communicator has neither failed nor been closed."""
        return self.error is None and not self.closed

    def refuse(self, here: str) -> NoReturn:
        """Raise, since the communicator is not usable; `here` names the call that is refused."""
        if self.error is not None and not self.reported:  # no caller has got the failure itself yet
            self.throw()
        if self.error is not None:
            text = f"{here}: this communicator failed before: {self.error}"
            raise CommunicatorError(text) from (self.error.__cause__ or self.error)
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"{here}: this communicator is closed",
            expected="an open one",
            do="Keep it open for as long as layers are trained with it.",
        )

    def fail(
        self,
        got: str,
        expected: str,
        do: str,
        kind: type[CommunicatorError] = CommunicatorError,
        cause: BaseException | None = None,
    ) -> NoReturn:
        """Record a failure, and raise the first one."""
        self.record(got, expected, do, kind, cause)
        self.throw()

    def record(
        self,
        got: str,
        expected: str,
        do: str,
        kind: type[CommunicatorError] = CommunicatorError,
        cause: BaseException | None = None,
    ) -> None:
        """Keep a failure, in the words of `bnspec._errors.refusal`."""
        if self._part:
            got = f"in the part of {ranks_text(self._part)}: {got}"
        self.keep(str(refusal(kind, "BN-SYNC-9", got=got, expected=expected, do=do)), kind, cause)

    def record_raised(self, rank: int, error: str, waited: str = "", cause: BaseException | None = None) -> None:
        """Record that a rank raised an error; `waited` says where another rank waited for it, if one did."""
        self.record(
            f"rank {rank} raised {error}{f' while {waited}' if waited else ''}",
            "every rank to reach every collective",
            f"Correct the error of rank {rank}; it is the cause of this one.",
            cause=cause,
        )

    def record_ended(self, ranks: Sequence[int], waited: str, how: str = "ended") -> None:
        """Record that ranks ended; `waited` says where another rank waited for them."""
        self.record(
            f"{ranks_text(ranks)} {how}, while {waited}",
            "every rank to take part in every collective",
            "Call the layers equally often on every rank; a rank without samples passes an empty batch.",
        )

    def record_gone(self, notice: Notice, waited: str) -> None:
        """Record that a rank ended, as its notice says; `waited` says where another rank waited for it."""
        if notice.kind == "raised":
            self.record_raised(notice.rank, notice.text, waited)
        else:
            self.record_ended([notice.rank], waited)

    def record_late(self, missing: Sequence[int], waited: str, longer: str = "the communicator") -> None:
        """Record that ranks did not come in time; `waited` says where and how long another rank waited for them."""
        absent = ranks_text(missing)
        self.record(
            f"{waited}, and {absent} did not arrive",
            "every rank within the deadline",
            f"Find out what {absent} did instead, or give {longer} a longer deadline.",
            CollectiveTimeout,
        )

    def keep(self, text: str, kind: type[CommunicatorError], cause: BaseException | None = None) -> None:
        """Keep a failure and announce it, if it is the first."""
        error = kind(text)
        error.__cause__ = cause
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        self._announce(kind.__name__, text)

    def throw(self) -> NoReturn:
        """Raise the first failure, as a new exception each time: a traceback belongs to one thread."""
        assert self.error is not None
        self.reported = True
        raise type(self.error)(str(self.error)) from self.error.__cause__
