"""Cache of compiled code on disk. A damaged or foreign file is never used, and no fault of the disk fails a call.

Each compiled function has one file for each kind of arguments. The file begins with two digests, one of the sources
that the code was made from and one of the file itself. So a file that was cut, overwritten or changed is noticed before
anything in it is read. A file is written under another name and then renamed; two processes that write the same file
write the same bytes.
"""

import contextlib
import hashlib
import os
import pickle
import time
import uuid
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

from bnspec_backends.cpu.compiled.compile_notice import notice

__all__ = ["CodeCache"]

_SIZE = hashlib.sha256().digest_size

#: Seconds after which an unfinished file is taken for one of a process that was killed.
_ABANDONED = 3600.0

#: Settings of numba that change the code made from one source; the processor is part of numba's own key.
_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "DISABLE_INTEL_SVML")


class Damaged(Exception):
    """Error of a file that does not hold what was written to it."""


class _Files:
    """Files of one function, in the place of numba's own index and data files.

    Parameters
    ----------
    folder : str
    base : str
        Beginning of the files' names.
    stamp : str
        Digest of the sources that the code was made from.
    """

    def __init__(self, folder: str, base: str, stamp: str) -> None:
        self._folder, self._base = Path(folder), base
        settings = [str(getattr(config, name, "")) for name in _SETTINGS]
        self._source = "\n".join([stamp, numba.__version__, llvmlite.__version__, *settings])

    def load(self, key: Any) -> Any:
        """Return the data kept for one of numba's keys; None if there is none, or if it was made from other sources.

        Raises
        ------
        Damaged, OSError
        """
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        source, whole, body = content[:_SIZE], content[_SIZE : 2 * _SIZE], content[2 * _SIZE :]
        if _digest(source, body) != whole:
            raise Damaged("a file is not what was written")
        if source != _digest(self._source.encode(), repr(key).encode()):
            return None
        found, data = pickle.loads(body)  # whole, and ours
        return data if found == key else None

    def save(self, key: Any, data: Any) -> None:
        """Keep data for a key.

        Raises
        ------
        OSError
        """
        body = dumps((key, data))
        source = _digest(self._source.encode(), repr(key).encode())
        path = self._path(key)
        beside = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:16]}")
        try:
            beside.write_bytes(source + _digest(source, body) + body)
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        self._tidy()

    def flush(self) -> None:
        """Remove all files."""
        for path in self._folder.glob(f"{self._base}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, key: Any) -> Path:
        return self._folder / f"{self._base}.{_digest(repr(key).encode()).hex()[:16]}.nbc"

    def _tidy(self) -> None:
        """Remove the unfinished files of processes that were killed."""
        with contextlib.suppress(OSError):
            for path in self._folder.glob(f"{self._base}.*.tmp.*"):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)


class CodeCache(FunctionCache):  # type: ignore[misc]
    """Cache of one function's compiled code, in the folder that numba chooses for it.

    Raises
    ------
    RuntimeError
        No folder can be written.
    """

    def __init__(self, function: Any, stamp: str) -> None:
        super().__init__(function)
        self._cache_file = _Files(self.cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the kept code, or None; then numba compiles."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever it is, code can be compiled
            notice.damaged(self.cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code, if the disk lets us."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # a full disk, mostly
            notice.unkept(self.cache_path, error)


def _digest(*parts: bytes) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()


# A child that is forked while another thread compiles would wait for ever for numba's lock, and find numba's tables
# half written. So a fork waits until the other thread has compiled.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
