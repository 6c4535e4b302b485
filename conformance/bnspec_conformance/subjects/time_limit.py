"""A limit on how long one case may take, so that a subject that never returns becomes a failure."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["PATIENCE", "TooLong", "deadline"]

#: Seconds after which a case is taken for one that never ends, unless the command line says otherwise.
PATIENCE = 120.0


class TooLong(BaseException):
    """A case was not done in time; no Exception, so that a subject's own ``except Exception`` does not swallow it."""

    hung = True  # what looks for a smaller case stops: each would take as long


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `TooLong` in the body after so many seconds.

    Needs POSIX signals and the main thread; elsewhere the body runs without a limit. Compiled code that never returns
    to the interpreter cannot be interrupted either: put such a subject behind a pipe (``exec:``).
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise TooLong(f"did not return within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
