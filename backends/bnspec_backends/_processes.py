"""What communicators of processes have in common: they end with a `with` block, and ranks that split give colours."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Literal, Self

from bnspec._errors import refusal

__all__ = ["ProcessCommunicator", "color_of"]


class ProcessCommunicator(ABC):
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
        """Take no further part, and tell the others."""


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
