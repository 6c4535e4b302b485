"""What becomes of a communicator that fails: the first failure is kept, told to the others, and raised ever after."""

import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends.ranks.facts import ranks_text
from bnspec_backends.ranks.notices import News

__all__ = ["ERRORS", "Health"]

#: The kinds of failure, by the name that is told.
ERRORS = {kind.__name__: kind for kind in (CommunicatorError, CollectiveMismatch, CollectiveTimeout)}


class Health:
    """Whether a rank's end of a communicator can be used.

    Parameters
    ----------
    tell : callable
        ``tell(kind, text)``: what is done, once, about the first failure.
    part : sequence of int, optional
        The ranks of a communicator that is a part of another; texts name it.

    Attributes
    ----------
    error : CommunicatorError or None
        The first failure.
    closed : bool
        Whether this rank takes no further part.
    raised : bool
        Whether somebody was told of `error`.
    """

    def __init__(self, tell: Callable[[str, str], None], part: Sequence[int] = ()) -> None:
        self.error: CommunicatorError | None = None
        self.closed = False
        self.raised = False
        self._tell, self._part = tell, part
        self._lock = threading.Lock()

    @property
    def well(self) -> bool:
        """Neither failed nor closed."""
        return self.error is None and not self.closed

    def refuse(self, here: str) -> NoReturn:
        """Raise, because this communicator is not well; `here` is what it cannot be used for."""
        if self.error is not None and not self.raised:  # nobody was told of it yet
            self.throw()
        if self.error is not None:
            raise CommunicatorError(f"{here}: this communicator failed before: {self.error}") from self.error
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
        """Poison the communicator, and raise."""
        self.poison(got, expected, do, kind, cause)
        self.throw()

    def poison(
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

    def poison_gone(self, news: News, waited: str) -> None:
        """A rank raised or ended that others wait for; `waited` says where, and on which rank."""
        if news.kind == "raised":
            self.poison(
                f"rank {news.rank} raised {news.text} while {waited}",
                "every rank to reach every collective",
                f"Correct the error of rank {news.rank}; it is the cause of this one.",
            )
        else:
            self.poison(
                f"rank {news.rank} ended, while {waited}",
                "every rank to take part in every collective",
                "Call the layers equally often on every rank; a rank without samples passes an empty batch.",
            )

    def poison_late(self, missing: Sequence[int], waited: str) -> None:
        """Ranks did not come in time; `waited` says where, how long, and on which rank."""
        absent = ranks_text(missing)
        self.poison(
            f"{waited}, and {absent} did not arrive",
            "every rank within the deadline",
            f"Find out what {absent} did instead, or give the communicator a longer deadline.",
            CollectiveTimeout,
        )

    def keep(self, text: str, kind: type[CommunicatorError], cause: BaseException | None = None) -> None:
        """Keep a failure, if it is the first."""
        error = kind(text)
        error.__cause__ = cause
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        self._tell(kind.__name__, text)

    def throw(self) -> NoReturn:
        """Raise the first failure."""
        assert self.error is not None
        self.raised = True
        raise type(self.error)(str(self.error)) from self.error.__cause__
