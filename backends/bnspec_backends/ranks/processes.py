"""What communicators have in common: they belong to one process, end with a `with` block, and split by colours."""

import os
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Literal, Self

from bnspec._errors import CommunicatorError, refusal

__all__ = ["Owned", "ProcessCommunicator", "color_of"]


class Owned:
    """What belongs to the process that made it.

    A forked child inherits the memory, but not the place among the ranks: what it sent would be taken for its
    parent's, and the threads and locks that it would wait for are not there.
    """

    _process: int

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Remember the process."""
        self = super().__new__(cls)
        self._process = os.getpid()
        return self

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's memory of what belongs to its parent."""
        return os.getpid() != self._process

    def refuse_inherited(self) -> None:
        """Refuse to be used in a forked child.

        Raises
        ------
        CommunicatorError
        """
        if self.inherited:
            raise refusal(
                CommunicatorError,
                "BN-SYNC-9",
                got=f"{self!r} of process {self._process} was used in process {os.getpid()}, a forked child of it",
                expected="the process that made it, which is the rank",
                do="Let the child compute without a communicator, or make each rank a process of its own.",
            )


class ProcessCommunicator(Owned, ABC):
    """One rank's end of a group of processes.

    Attributes
    ----------
    rank, size : int
    """

    rank: int
    size: int

    def __repr__(self) -> str:
        """For example ``<MPICommunicator rank 0 of 2>``."""
        return f"<{type(self).__name__} rank {self.rank} of {self.size}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close(error)
        return False

    @abstractmethod
    def close(self, error: BaseException | None = None) -> None:
        """Take no further part, and tell the others; in a forked child, do nothing."""


def color_of(color: Any) -> int | str | None:
    """What a rank gives to `split`, if it can be compared with the others'.

    Raises
    ------
    TypeError
        The colour is something else than an integer, a text or None.
    """
    if isinstance(color, bool) or not isinstance(color, int | str | None):
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"color is {color!r}",
            expected="an integer, a text or None",
            do="Give the ranks that belong together the same number.",
        )
    return color
