"""Waiting with a deadline: polls of a condition that give the core to other processes meanwhile."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from bnspec._errors import refusal

__all__ = ["GRACE", "checked_deadline", "pause", "wait"]

#: Seconds that a rank which ends waits for its last messages to be taken, and for the other ranks to end.
GRACE = 2.0

#: Seconds of a wait in which a rank keeps its core, since the others are mostly just about to arrive; seconds in which
#: it lets other processes run between polls; and seconds that it sleeps between polls after that.
KEEP, SPIN, NAP = 30e-6, 0.002, 0.0002

#: Longest deadline: less than the longest wait of a lock, since some waits add a few seconds.
_LONGEST = threading.TIMEOUT_MAX - 60.0


def wait(done: Callable[[], bool], until: float) -> bool:
    """Call `done` until it is true or the time is up; return whether it became true."""
    begun = time.perf_counter()
    while not done():
        if not pause(begun, until):
            return False
    return True


def pause(begun: float, until: float) -> bool:
    """Give way to other processes between two polls, more so in a long wait; return whether time is left."""
    now = time.perf_counter()
    if now >= until:
        return False
    if now - begun >= SPIN:
        time.sleep(NAP)
    elif now - begun >= KEEP:
        _give_way()
    return True


def _give_way() -> None:
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)


def checked_deadline(deadline: Any) -> float:
    """Return a deadline in seconds.

    Raises
    ------
    ValueError
        The deadline is no positive, finite number.
    """
    number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
    if not number or not 0 < deadline < _LONGEST:
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got=f"deadline is {deadline!r}",
            expected="a positive, finite number of seconds",
            do="Give each collective at least the time by which ranks may differ.",
        )
    return float(deadline)
