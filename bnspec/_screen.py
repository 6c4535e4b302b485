"""The standard streams of a command, which may be closed, full, or a pipe that nobody reads.

Commands print text of others: names, reasons, the output of programs. Control characters in it become
escapes here, where all of it comes by; colours and the like pass on a terminal only.
"""

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from bnspec._printable import printable

__all__ = ["Screen", "command", "open_closed"]

#: What a terminal is told by rich and pytest: colours, moves of the cursor, erasing, hiding the cursor.
_DRAWING = re.compile(r"(\x1b\[\??[0-9;]*[A-HJKSTfhlm]|\r)")


class Screen:
    """A text stream that writes what can be written and fails once, with a reason, instead of with a traceback.

    Parameters
    ----------
    stream : text stream

    Attributes
    ----------
    failure : OSError or None
        Why nothing is written any more; a reader that has gone away is no failure.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text with its control characters as escapes."""
        if self._drawn():
            parts = _DRAWING.split(text)
            shown = "".join(part if i % 2 else printable(part) for i, part in enumerate(parts))
        else:
            shown = printable(text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        self._attempt(lambda: self._stream.write(shown))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is held back."""
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        """Return whether this is a terminal."""
        return bool(self._stream.isatty())

    def _drawn(self) -> bool:
        return self.isatty() or bool(os.environ.get("FORCE_COLOR") or os.environ.get("PY_COLORS") == "1")

    def _attempt(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            self._leave()

    def _leave(self) -> None:
        """Let everything that is still written go nowhere, also what Python writes at its end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        except (OSError, ValueError):  # no file: it is not written at the end either
            self._stream = _Nowhere()
        finally:
            os.close(nowhere)


class _Nowhere(io.StringIO):
    """Holds nothing."""

    def write(self, text: str) -> int:
        """Forget the text."""
        return len(text)


def open_closed() -> None:
    """Open those of the standard streams that are closed, so that no file takes their place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


@contextlib.contextmanager
def _screens() -> Iterator[tuple[Screen, Screen]]:
    before = sys.stdout, sys.stderr
    made = Screen(sys.stdout), Screen(sys.stderr)
    sys.stdout, sys.stderr = made
    try:
        yield made
    finally:
        for screen in made:
            screen.flush()
        sys.stdout, sys.stderr = before


def command(name: str, body: Callable[[], int]) -> int:
    """Run the body of a command, and return its exit status.

    Parameters
    ----------
    name : str
        Of the command, for messages.
    body : callable
        Prints as ever. A refusal of the operating system, want of memory and Ctrl-C that it lets through become a
        sentence and a status.

    Raises
    ------
    SystemExit
        If the body does.
    """
    status: Any = 2
    leaving: SystemExit | None = None
    with _screens() as (out, err):
        try:
            status = body()
        except SystemExit as error:
            status, leaving = error.code, error
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            status = 130
        except MemoryError as error:
            print(f"{name}: there is not enough memory. {error}".rstrip(), file=sys.stderr)
        except OSError as error:
            what = "" if error.filename is None else f"{error.filename}: "
            print(f"{name}: {what}{error.strerror or error}", file=sys.stderr)
        out.flush()
        if out.failure is not None:
            print(f"{name}: the standard output cannot be written: {out.failure.strerror}", file=sys.stderr)
            if status in (0, None):
                status = 2
        err.flush()
    if leaving is not None:
        raise leaving if status == leaving.code else SystemExit(status)
    return int(status)
