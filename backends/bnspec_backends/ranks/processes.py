"""Base classes of communicators: they belong to one process, end with a `with` block, and split by colours."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal, Self

from bnspec._errors import CommunicatorError, refusal

__all__ = ["Owned", "ProcessCommunicator", "checked_color", "part_of"]


class Owned:
    """Base class of objects that belong to the process that made them.

    A forked child inherits the memory, but not the place among the ranks: its messages would be taken for its parent's,
    and the threads and locks that it would wait for are not there.
    """

    _process: int

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Remember the process."""
        self = super().__new__(cls)
        self._process = os.getpid()
        return self

    @property
    def inherited(self) -> bool:
        """True in a forked child of the process that made the object."""
        return os.getpid() != self._process

    def refuse_inherited(self) -> None:
        """Refuse to be used in a forked child.

        Raises
        ------
        CommunicatorError
            The object belongs to the parent.
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
    """Base class of one rank's end of a group of processes.

    Attributes
    ----------
    rank : int
        This rank, 0 .. size - 1.
    size : int
        Number of ranks.
    """

    rank: int
    size: int

    def __repr__(self) -> str:
        """Return for example ``<MPICommunicator rank 0 of 2>``."""
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
        """Take no further part, and notify the other ranks; in a forked child, do nothing."""


def checked_color(color: Any) -> int | str | None:
    """Return the colour that a rank gives to `split`.

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


def part_of(whole: Any, color: int | str | None, given: Iterable[bytes]) -> tuple[tuple[int, ...], str]:
    """Return the ranks that gave one colour to `split`, and the id of their group, the same on each of them.

    Parameters
    ----------
    whole : exchange
        Of the communicator that is split; its members, group and sequence number are read.
    color : int, str or None
        Of this rank.
    given : iterable of bytes
        The colours of all ranks as JSON, in rank order.
    """
    members = tuple(rank for rank, each in zip(whole.members, map(json.loads, given)) if each == color)
    name = json.dumps([whole.group, whole.sequence, color]).encode()
    return members, hashlib.blake2b(name, digest_size=16).hexdigest()
