"""One file read whole or replaced whole: what a killed program left behind, and what is no file at all."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from bnspec._errors import refusal

try:
    import fcntl
except ImportError:  # Windows, where a file that somebody has open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

__all__ = ["read_regular", "write_atomically"]

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: str | os.PathLike[str], check: Callable[[BinaryIO, int], None]) -> bytes:
    """Read a regular file, after a check of its beginning and length; nothing else is opened or waited for.

    Parameters
    ----------
    path : path
        Links are followed.
    check : callable
        Takes the open file and its length, and raises ValueError where it is not what it claims to be.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        If the path is a directory, a FIFO, a socket or a device [BN-STATE-5].
    """
    _refuse_others(path, os.stat(path).st_mode)
    # Without O_NONBLOCK a FIFO that took the file's place since would be waited for.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        _refuse_others(path, status.st_mode)
        check(file, status.st_size)
        file.seek(0)
        return file.read(status.st_size)


def _refuse_others(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"{os.fspath(path)!r} is {_KINDS.get(stat.S_IFMT(mode), 'no file')}",
            expected="a regular file",
            do="Load the file that was saved; nothing was read.",
        )


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Whoever opens the path sees the old file or all of the new one, also after a crash [BN-STATE-4].

    Temporary files of the same name that killed programs left are removed first.
    """
    target = Path(os.path.realpath(path))  # a symbolic link keeps pointing where it did
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write a file into", str(target.parent))
    _remove_leftovers(target)
    temporary, descriptor = _new_beside(target)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            if os.name == "posix":  # elsewhere an open file cannot be renamed
                os.replace(temporary, target)
        if os.name != "posix":
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a directory cannot be opened, and the rename is durable by itself
        _sync_directory(target.parent)


def _new_beside(target: Path) -> tuple[Path, int]:
    """Open a temporary file whose lock says that its writer lives: the system lets go of it with the process."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        # Opened here and not by `tempfile`, whose files only their owner may read.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if _locked(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # another writer took it for a leftover before it was locked
        temporary.unlink(missing_ok=True)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files for this target whose writers are gone."""
    ours = re.compile(re.escape(f".{target.name}.") + "[0-9a-f]{16}" + re.escape(".tmp"))
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if ours.fullmatch(name):
                with suppress(OSError):
                    _remove_if_unlocked(target.with_name(name))


def _remove_if_unlocked(leftover: Path) -> None:
    if fcntl is None:
        leftover.unlink()
        return
    descriptor = os.open(leftover, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if _locked(descriptor):
            leftover.unlink()
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """Lock a file: False if another process has it, None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs no directories
            raise
    finally:
        os.close(descriptor)
