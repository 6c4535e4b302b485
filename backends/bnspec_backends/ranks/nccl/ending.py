"""The end of NCCL communicators: however many there are, what they wait for is waited for together."""

import atexit
import functools
import sys
import time
from collections.abc import Iterable

from bnspec_backends.ranks.nccl.watch import OPEN, Watch
from bnspec_backends.ranks.notices import GRACE

__all__ = ["close_at_exit", "close_together"]


def close_together(watches: Iterable[Watch], error: BaseException | None) -> list[Watch]:
    """Close what is open of some; those with a failure that nobody was told of.

    Parameters
    ----------
    watches : iterable of Watch
    error : BaseException or None
        Why. With one, collectives that are under way are given up, else waited for.
    """
    watches = [watch for watch in watches if not watch.health.closed]
    try:
        if error is None:
            for watch in watches:
                watch.settle()
    except BaseException as interrupt:
        _stop(watches, interrupt)
        raise
    _stop(watches, error)
    return [watch for watch in watches if error is None and watch.health.error is not None and not watch.health.raised]


def _stop(watches: list[Watch], error: BaseException | None) -> None:
    for watch in watches:
        watch.stop(error)
    until = time.perf_counter() + GRACE
    for watch in watches:
        watch.keeper.ended(max(0.0, until - time.perf_counter()))


def close_at_exit() -> None:
    """Close what is open at the end of the program, or of MPI."""
    _register(mpi="bnspec_backends.ranks.mpi.exit" in sys.modules)


@functools.cache
def _register(mpi: bool) -> None:
    """Register once before MPI is there and once after it: what is registered later runs earlier, and needs MPI."""
    atexit.register(_leave)
    if mpi:
        from bnspec_backends.ranks.mpi.exit import ENDING

        ENDING.before.append(lambda error: _close([watch for watch in OPEN if watch.control.tells], error))


def _leave() -> None:
    ending = sys.modules.get("bnspec_backends.ranks.mpi.exit")
    _close(list(OPEN), ending.ENDING.error if ending else None)


def _close(watches: list[Watch], error: BaseException | None) -> None:
    ending = sys.modules.get("bnspec_backends.ranks.mpi.exit")
    for watch in close_together(watches, error):  # nobody called these again to hear of it
        failed = watch.health.error
        assert failed is not None
        sys.excepthook(type(failed), failed, failed.__traceback__)
        if ending:
            ending.ENDING.late = True
