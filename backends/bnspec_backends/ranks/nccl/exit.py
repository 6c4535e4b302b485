"""End of NCCL communicators: however many there are, their last collectives and their ends are waited for together."""

import atexit
import sys
import time
from collections.abc import Iterable

from bnspec_backends.ranks.mpi.exit import ENDING
from bnspec_backends.ranks.nccl.watchdog import OPEN, Watchdog
from bnspec_backends.ranks.waiting import GRACE

__all__ = ["close_together"]


def close_together(watchdogs: Iterable[Watchdog], error: BaseException | None) -> list[Watchdog]:
    """Close the communicators of watchdogs; return those with a failure that no call has raised.

    Parameters
    ----------
    watchdogs : iterable of Watchdog
        Communicators that are closed stay so.
    error : BaseException or None
        The error by which this rank ends. With one, pending collectives are given up, else waited for.
    """
    watchdogs = [each for each in watchdogs if not each.failure.closed]
    try:
        if error is None:
            for each in watchdogs:
                each.settle()
    except BaseException as interrupt:
        _stop(watchdogs, interrupt)
        raise
    _stop(watchdogs, error)
    return [
        each for each in watchdogs if error is None and each.failure.error is not None and not each.failure.reported
    ]


def _stop(watchdogs: list[Watchdog], error: BaseException | None) -> None:
    for each in watchdogs:
        each.stop(error)
    until = time.perf_counter() + GRACE
    for each in watchdogs:
        each.thread.ended(max(0.0, until - time.perf_counter()))


def _close_all(error: BaseException | None) -> None:
    """Close what is open at the end of the program, or of MPI; report failures that no call has raised."""
    for each in close_together(list(OPEN), error):
        failed = each.failure.error
        assert failed is not None
        sys.excepthook(type(failed), failed, failed.__traceback__)
        ENDING.failed_late = True


# Registered after the end of MPI's communicators, which this module imports: so it runs before that.
atexit.register(lambda: _close_all(ENDING.error))
ENDING.before.append(_close_all)
