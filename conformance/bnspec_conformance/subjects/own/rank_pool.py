"""Pools of ranks: they run one function on several ranks of bnspec, as threads or as processes of an MPI job.

A check that needs ranks takes the pool of its subject, so it is the same check on every communicator.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from bnspec import CommunicatorError
from bnspec_backends.ranks import threads

__all__ = ["RankPool", "ThreadRankPool", "first_error"]

T = TypeVar("T")


class RankPool(Protocol):
    """Ranks that can call a function together.

    Attributes
    ----------
    size : int
        Largest number of ranks.
    """

    size: int

    def run(self, size: int, fn: Callable[[Any], T], *, deadline: float) -> list[T]:
        """Call ``fn(comm)`` on that many ranks and return the results, or raise the first error of a rank's own."""
        ...

    def outcomes(self, size: int, fn: Callable[[Any], Any], *, deadline: float) -> list[Any]:
        """Call ``fn(comm)`` as `run` does, but return the exception of a rank in the place of its result."""
        ...


class ThreadRankPool:
    """Ranks as threads of this process."""

    size = 4

    def run(self, size: int, fn: Callable[[Any], T], *, deadline: float) -> list[T]:
        """Call a function on that many threads (`RankPool.run`)."""
        return threads.run(size, fn, deadline=deadline)

    def outcomes(self, size: int, fn: Callable[[Any], Any], *, deadline: float) -> list[Any]:
        """Call a function on that many threads and keep every exception (`RankPool.outcomes`)."""
        found: list[Any] = [None] * size

        def one(comm: threads.ThreadCommunicator) -> None:
            try:
                found[comm.rank] = fn(comm)
            except BaseException as error:
                found[comm.rank] = error
                raise

        with contextlib.suppress(Exception):  # every exception is in `found` already
            threads.run(size, one, deadline=deadline)
        return found


def first_error(found: list[Any]) -> Exception | None:
    """Return the first exception that is not only the echo of another rank's."""
    errors = [each for each in found if isinstance(each, Exception)]
    own = [error for error in errors if not isinstance(error, CommunicatorError)]
    return next(iter(own or errors), None)
