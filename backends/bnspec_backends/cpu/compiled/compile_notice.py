"""Say once how long compiling took, and why it was necessary: a first call that takes seconds is no riddle then."""

import logging
import time
from typing import Any

from numba.core import event

__all__ = ["notice"]

_LOG = logging.getLogger("bnspec")


class _Notice(event.Listener):  # type: ignore[misc]
    """Adds up the time that our own kernels compile, those within others counted once."""

    def __init__(self) -> None:
        self._unkept = ""  # why compiled code cannot be kept
        self._damage_told = False
        self._pending = False
        self._depth = 0
        self._began = 0.0
        self._seconds = 0.0

    def on_start(self, event: Any) -> None:
        """Some kernel begins to compile; not called for one that is found on disk."""
        if _ours(event):
            if self._depth == 0:
                self._began = time.perf_counter()
            self._depth += 1

    def on_end(self, event: Any) -> None:
        """It is done."""
        if _ours(event):
            self._depth -= 1
            if self._depth == 0:
                self._seconds += time.perf_counter() - self._began
                self._pending = True

    def unkept(self, folder: str, error: Exception) -> None:
        """From now on, say that code is not kept, and why."""
        self._unkept = f"nothing can be written to {folder} ({type(error).__name__}: {error})"

    def damaged(self, folder: str, error: Exception) -> None:
        """Say once that what was kept cannot be used."""
        if not self._damage_told:
            self._damage_told = True
            text = "bnspec compiles CPU kernels anew where what was kept of them in %s cannot be read (%s: %s)"
            _LOG.warning(text, folder, type(error).__name__, error)

    def tell(self) -> None:
        """Say it, if anything was compiled since the last time."""
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
