"""Signals that end a run: it writes what it found, names the case that was running, and does not exit with 0."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from bnspec._printable import printable

__all__ = ["Stop", "Stopped", "current", "stoppable"]

#: Seconds for code under test to let go after a signal; after that another thread ends the process.
_GRACE = 5.0


_current: "Stop | None" = None


class Stopped(KeyboardInterrupt):
    """A signal came; pytest and everything else takes it for Ctrl-C."""


class Stop:
    """Signal that ended the run, and the listeners that have to be told.

    Attributes
    ----------
    number : int or None
        The signal.
    last : callable or None
        Called from another thread, with the signal's name, where the main one is stuck in compiled code; what is still
        to be written is written there, and then the process is ended.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self.number: int | None = None
        self.last: Callable[[str], None] | None = None
        self._heard = threading.Event()
        self._error = os.dup(2)  # pytest puts a file in its place while a test runs

    @property
    def name(self) -> str | None:
        """Of the signal, such as SIGTERM."""
        return None if self.number is None else signal.Signals(self.number).name

    def argument(self, value: Any) -> None:
        """Let nothing begin that a subject could be given after the signal."""
        if self.name is not None:
            raise Stopped(self.name)

    def case(self, case: Any) -> None:
        """Let no case begin either: the subject may have caught the exception of the signal."""
        self.argument(case)

    def tell(self, text: str) -> None:
        """Write a line to what was standard error at first."""
        with contextlib.suppress(OSError):
            os.write(self._error, (printable(text) + "\n").encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Close the copy of standard error."""
        os.close(self._error)

    def status(self, otherwise: int) -> int:
        """Return the exit status: 128 and the signal, as shells have it."""
        return otherwise if self.number is None else 128 + self.number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a fork of the process; it ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.number = number
        self._heard.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        raise Stopped(signal.Signals(number).name)

    def _listen(self, pipe: int, numbers: frozenset[int]) -> None:
        """Wait for signals, and for the main thread to have heard of them."""
        while True:
            found = os.read(pipe, 1)
            if not found:
                return
            if found[0] in numbers and not self._heard.wait(_GRACE):
                try:
                    if self.last is not None:
                        self.last(signal.Signals(found[0]).name)
                finally:
                    os._exit(128 + found[0])


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Stopped` in the body; in a thread that is not the main one, do nothing."""
    global _current
    stop = Stop()
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = frozenset(getattr(signal, name) for name in names if hasattr(signal, name))
    # A signal that is ignored, as SIGHUP is under nohup, stays so.
    numbers = frozenset(n for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None))
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield stop
        stop.close()
        return
    outer, _current = _current, stop
    before = {number: signal.signal(number, stop._handle) for number in numbers}
    read, write = os.pipe()
    os.set_blocking(write, False)
    waked = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=stop._listen, args=(read, numbers), daemon=True, name="bnspec-signals")
    thread.start()
    try:
        yield stop
    finally:
        _current = outer
        signal.set_wakeup_fd(waked)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)
        thread.join()
        stop.close()
        os.close(read)


def current() -> Stop | None:
    """Return the `Stop` of the `stoppable` body that is running; None outside of one."""
    return _current


def _forked() -> None:
    """Detach a forked child from the signals of its parent."""
    if _current is not None and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
