"""End of a program whose ranks joined their statistics over a process group: no rank waits for one that is gone."""

import atexit
import sys
import time
from typing import Any

from bnspec_backends.ranks.waiting import GRACE, wait

__all__ = ["OPEN", "close_together"]

#: The exchanges of this process that are open.
OPEN: set[Any] = set()

#: Exchanges that were closed, of which other ranks may still want to know why, from a store in this process.
_CLOSED: set[Any] = set()


def close_together(exchanges: list[Any], error: BaseException | None = None) -> None:
    """Close exchanges, with a notice of the error by which this rank ends, if it ends by one."""
    _all_ended()
    for each in exchanges:
        each.close(error)
        if each.hosts_store:
            _CLOSED.add(each)


def _all_ended() -> bool:
    """Return whether every other rank has failed or ended, or can no longer be heard."""
    for each in list(_CLOSED):
        each.listen()
        if each.board.thread.silent or each.ended >= {*each.members} - {each.number}:
            _CLOSED.discard(each)
    return not _CLOSED


@atexit.register
def _leave() -> None:
    """Close all exchanges at exit, and stay for a short time while the other ranks may want to know why this one ended.

    The store is mostly a server in the first process, and ends with it.
    """
    close_together([each for each in OPEN if not each.inherited], getattr(sys, "last_value", None))
    if any(not each.inherited for each in _CLOSED):
        wait(_all_ended, time.perf_counter() + GRACE)
