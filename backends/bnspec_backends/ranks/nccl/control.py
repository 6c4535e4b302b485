"""The other way between the ranks of an NCCL communicator: for what their hosts must know.

NCCL does not notice when ranks mean messages of different lengths, and does not say who is missing. So before a layer's
first message all ranks compare what they are about to do, and a rank that fails, leaves or waits tells the others,
which may be waiting for it on their devices. `over_mpi` does that; `over_device` can only compare.
"""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from bnspec._errors import CommunicatorError
from bnspec_backends.ranks.headers import About
from bnspec_backends.ranks.notices import News

__all__ = ["Control"]


class Control(Protocol):
    """How the hosts of the ranks reach each other.

    Attributes
    ----------
    members : tuple of int
        The ranks' numbers in all that is said, in order.
    whole : bool
        Whether this is not the control of a part.
    group : bytes
        Sixteen bytes that tell this group of ranks from others.
    tells : bool
        Whether `tell` reaches anybody.
    calling : threading.Lock
        Held around calls of NCCL's.
    """

    members: tuple[int, ...]
    whole: bool
    group: bytes
    tells: bool
    calling: threading.Lock

    @property
    def deadline(self) -> float:
        """Seconds that a rank waits for the others."""
        ...

    @deadline.setter
    def deadline(self, seconds: float) -> None: ...

    def agree(self, own: About, sequence: int) -> None:
        """Wait for all ranks, and compare what they are about to do in the collective of this number.

        Raises
        ------
        CommunicatorError
            They differ, or one is missing or failed.
        """
        ...

    def gather(self, data: bytes, operation: str) -> list[bytes]:
        """Every rank's bytes, in order."""
        ...

    def split(self, color: int | str | None, share: bool) -> "tuple[Any, Control]":
        """An NCCL communicator and a control of the ranks that give the same colour, which may `share` a device."""
        ...

    def tell(self, sequence: int, kind: str, text: str, *, everybody: bool = False) -> None:
        """Let the others know; nobody need read it. Ranks pass on what ends them, and nothing else."""
        ...

    def hear(self) -> Sequence[News]:
        """What others told since the last time."""
        ...

    def fail(self, kind: type[CommunicatorError], text: str) -> None:
        """End what this rank's host, and the others', wait for here."""
        ...

    def failure(self) -> CommunicatorError | None:
        """The first failure here, or that others told."""
        ...

    def close(self, error: BaseException | None) -> None:
        """Take no further part."""
        ...
