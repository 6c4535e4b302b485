"""What ranks tell each other beside their collectives, and waits that end."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bnspec._errors import refusal
from bnspec_backends.ranks.facts import error_text

__all__ = ["GRACE", "LAST", "News", "deadline_of", "pause", "reason_of", "wait"]

#: Seconds that a rank which ends gives what it sent to be taken, and the others to end too.
GRACE = 2.0

#: Seconds of a wait in which a rank keeps its core, since the others are mostly just about to arrive; those in which it
#: lets other processes run between looks; and how long it sleeps between looks after that.
KEEP, SPIN, NAP = 30e-6, 0.002, 0.0002


#: The kinds of news after which none come from a rank about a group.
LAST = ("left", "raised")


class News(NamedTuple):
    """Another rank failed or left.

    Attributes
    ----------
    rank : int
    sequence : int
        The last collective of the group that it completed.
    kind : str
        The name of the error type, or "left" where it ended, or "raised" where it ended by an error.
    text : str
        The error's text.
    """

    rank: int
    sequence: int
    kind: str
    text: str


def reason_of(error: BaseException | None) -> tuple[str, str]:
    """How news say that a rank ended."""
    return ("left", "") if error is None else ("raised", error_text(error))


def wait(done: Callable[[], bool], until: float) -> bool:
    """Call `done` until it is true, or until the time is up; whether it became true."""
    begun = time.perf_counter()
    while not done():
        if not pause(begun, until):
            return False
    return True


def pause(begun: float, until: float) -> bool:
    """Between two looks of a wait: give way to others, the more the longer it has taken. Whether there is time left."""
    now = time.perf_counter()
    if now >= until:
        return False
    if now - begun >= SPIN:
        time.sleep(NAP)
    elif now - begun >= KEEP:
        os.sched_yield()
    return True


def deadline_of(deadline: Any) -> float:
    """A deadline in seconds, if it is one.

    Raises
    ------
    ValueError
    """
    number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
    if not number or not 0 < deadline < threading.TIMEOUT_MAX:
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got=f"deadline is {deadline!r}",
            expected="a positive, finite number of seconds",
            do="Give each collective at least the time by which ranks may differ.",
        )
    return float(deadline)
