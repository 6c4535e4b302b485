"""Notice of how long compiling took and why it was needed, so that a first call of several seconds is explained."""

import logging
import time
from typing import Any

from numba.core import event

__all__ = ["notice"]

_LOG = logging.getLogger("bnspec")


class _Notice(event.Listener):  # type: ignore[misc]
    """Sum of the time in which our kernels compile; a kernel compiled inside of another is counted once."""

    def __init__(self) -> None:
        self._unkept = ""  # why compiled code cannot be kept
        self._damage_told = False
        self._pending = False
        self._depth = 0
        self._began = 0.0
        self._seconds = 0.0

    def on_start(self, event: Any) -> None:
        """Note the start of a compilation; numba does not call this for code found on disk."""
        if _ours(event):
            if self._depth == 0:
                self._began = time.perf_counter()
            self._depth += 1

    def on_end(self, event: Any) -> None:
        """Note the end of a compilation."""
        if _ours(event):
            self._depth -= 1
            if self._depth == 0:
                self._seconds += time.perf_counter() - self._began
                self._pending = True

    def unkept(self, folder: str, error: Exception) -> None:
        """Say from now on that code is not kept, and why."""
        self._unkept = f"nothing can be written to {folder} ({type(error).__name__}: {error})"

    def damaged(self, folder: str, error: Exception) -> None:
        """Warn once that kept code cannot be used."""
        if not self._damage_told:
            self._damage_told = True
            text = "bnspec compiles CPU kernels anew where what was kept of them in %s cannot be read (%s: %s)"
            _LOG.warning(text, folder, type(error).__name__, error)

    def log(self) -> None:
        """Log the time, if anything was compiled since the last call."""
        if not self._pending:
            return
        self._pending = False
        seconds, self._seconds = self._seconds, 0.0
        end = f"{self._unkept}, so they are not kept" if self._unkept else "they are kept on disk for the next time"
        _LOG.warning("bnspec compiled CPU kernels for %.1f s; %s", seconds, end)


def _ours(found: Any) -> bool:
    function = getattr(found.data.get("dispatcher"), "py_func", None)
    return getattr(function, "__module__", "").startswith("bnspec_backends.cpu.")


notice = _Notice()
event.register("numba:compile", notice)
