"""Writing a file so that it is whole at every moment: beside it first, then by rename."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["write_bytes", "write_text"]


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8; what cannot be encoded, half a surrogate pair, becomes its escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file beside the one that it replaces, and rename it.

    A link stays a link, and keeps the permissions of what it leads to. A device or a pipe is written as it is.

    Raises
    ------
    OSError
        With the path that was given as its ``filename``.
    """
    try:
        place = Path(os.path.realpath(path))
        if place.exists() and not place.is_file():
            with open(path, "wb", buffering=0) as file:
                _all(file.fileno(), data)
        else:
            _replace(place, data)
    except OSError as error:
        error.filename = str(path)  # not what it was written beside as, and not None, as write() has it
        raise


def _replace(place: Path, data: bytes) -> None:
    mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o666 & ~_umask()
    try:
        number, beside = tempfile.mkstemp(prefix=f".{place.name[:100]}.", suffix=".tmp", dir=place.parent)
    except PermissionError:  # no new files in this folder, but perhaps this one
        with open(place, "wb", buffering=0) as file:
            _all(file.fileno(), data)
        return
    try:
        try:
            _all(number, data)
            with contextlib.suppress(OSError, AttributeError):  # a file system without permissions; Windows
                os.fchmod(number, mode)
        finally:
            os.close(number)
        os.replace(beside, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _all(number: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(number, left) :]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
