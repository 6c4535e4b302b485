"""How several ranks of bnspec run: as threads of this process, or as the processes of an MPI job.

A check that needs ranks asks its subject's world, so that it is the same check on every communicator.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from bnspec import CommunicatorError
from bnspec_backends.ranks import threads

__all__ = ["ThreadWorld", "World", "first_error"]

T = TypeVar("T")


class World(Protocol):
    """Ranks that can call a function together.

    Attributes
    ----------
    size : int
        Most ranks there can be.
    """

    size: int

    def run(self, size: int, fn: Callable[[Any], T], *, deadline: float) -> list[T]:
        """Call ``fn(comm)`` on that many ranks; what each returns, or the first error that a rank raised by itself."""
        ...

    def outcomes(self, size: int, fn: Callable[[Any], Any], *, deadline: float) -> list[Any]:
        """The same, with each rank's exception in the place of its result."""
        ...


class ThreadWorld:
    """Ranks as threads of this process."""

    size = 4

    def run(self, size: int, fn: Callable[[Any], T], *, deadline: float) -> list[T]:
        """See `World`."""
        return threads.run(size, fn, deadline=deadline)

    def outcomes(self, size: int, fn: Callable[[Any], Any], *, deadline: float) -> list[Any]:
        """See `World`."""
        found: list[Any] = [None] * size

        def one(comm: threads.ThreadCommunicator) -> None:
            try:
                found[comm.rank] = fn(comm)
            except BaseException as error:
                found[comm.rank] = error
                raise

        with contextlib.suppress(Exception):  # it is in its place
            threads.run(size, one, deadline=deadline)
        return found


def first_error(found: list[Any]) -> Exception | None:
    """The first exception that is not only the echo of another rank's."""
    errors = [each for each in found if isinstance(each, Exception)]
    own = [error for error in errors if not isinstance(error, CommunicatorError)]
    return next(iter(own or errors), None)
