"""Files of checkpoints: the format that a suffix stands for, read without trust and replaced in one step."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.options import Options, merged
from bnspec._dialect import Dialect
from bnspec._errors import refusal
from bnspec._files.disk import read_regular, write_atomically

__all__ = ["FolderFormat", "Format", "read_checkpoint", "write_checkpoint"]

#: The group of entry points; each is named as the suffix that it reads and writes.
GROUP = "bnspec.checkpoints"

#: The one suffix that is a folder's.
FOLDER = "orbax"

#: The extra of ``pip install bnspec[...]`` that brings each format's library.
EXTRAS = {"safetensors": "safetensors", "pt": "torch", "pth": "torch", "bin": "torch"}


class Format(Protocol):
    """One format of files; what it raises of a file is turned into a refusal that names the file."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Raise ValueError for a file whose beginning or length shows that it is of another format."""
        ...

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return the arrays by the framework's names, and the options of layers that the file itself knows.

        Parameters
        ----------
        data : bytes
            All of the file.
        row : Dialect
            The framework that wrote it.
        layers : mapping of str to Options
            Options of layers from a file beside it.
        names : sequence of str
            The arrays' names in order, for files without names.
        """
        ...

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return the file's content.

        Parameters
        ----------
        given : Checkpoint
            Arrays by the framework's names, and the layers' options.
        row : Dialect
            The framework that is to read it.
        template : bytes or None
            A file of the target, for formats that hold more than arrays.
        """
        ...


class FolderFormat(Protocol):
    """One format of folders, which reads and writes by itself."""

    def read_folder(
        self, path: str | os.PathLike[str], row: Dialect, layers: Mapping[str, Options], names: Sequence[str]
    ) -> Checkpoint:
        """Return what `Format.read` does."""
        ...

    def write_folder(self, path: str | os.PathLike[str], given: Checkpoint, row: Dialect) -> None:
        """Write the folder, in one step, where none is."""
        ...


def read_checkpoint(
    path: str | os.PathLike[str], row: Dialect, layers: Mapping[str, Options], names: Sequence[str] = ()
) -> Checkpoint:
    """Return the content of a file, or of a folder.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ImportError
        The format's library is missing; the text names the extra [BN-ERR-5].
    LookupError
        For a suffix that no format has [BN-ERR-5].
    ValueError
        For a file that is damaged, cut, of another format, or that would have to be unpickled [BN-STATE-5].
    """
    reader, suffix = _format(path)
    length = -1

    def check(file: BinaryIO, size: int) -> None:
        nonlocal length
        length = size
        with refusing():
            reader.check(file, size)

    def refusing() -> AbstractContextManager[None]:
        return _refusing(path, f"read, of {length} bytes", f"an intact .{suffix} file of arrays", "Take another copy.")

    if suffix == FOLDER:
        with _refusing(path, "read", "an intact folder of orbax", "Take another copy."):
            found = reader.read_folder(path, row, layers, names)
    else:
        data = read_regular(path, check)
        with refusing():
            found = reader.read(data, row, layers, names)
    return Checkpoint(found.arrays, merged(layers, found.layers))


def write_checkpoint(path: str | os.PathLike[str], given: Checkpoint, row: Dialect, template: bytes | None) -> None:
    """Write a file or folder, in one step [BN-STATE-4]."""
    writer, suffix = _format(path)
    if suffix == FOLDER:
        with _refusing(path, "written", "a path where nothing is", "Write to another path."):
            writer.write_folder(path, given, row)
        return
    with _refusing(path, "written", f"arrays and names that a .{suffix} file holds", "Write a file of another format."):
        data = writer.write(given, row, template)
    write_atomically(path, data)


@contextmanager
def _refusing(path: str | os.PathLike[str], done: str, expected: str, do: str) -> Iterator[None]:
    """Turn whatever a library says about a file into a refusal that names it."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        if "[BN-" in str(error):  # it was refused already
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        got = f"{os.fspath(path)!r} cannot be {done}: {reason}"
        raise refusal(ValueError, "BN-STATE-5", got=got, expected=expected, do=f"{do} Nothing was written.") from error


def _format(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The format of a path, and the suffix by which it is known; a folder is one of orbax, whatever its name."""
    suffix = FOLDER if os.path.isdir(path) else Path(path).suffix.removeprefix(".")
    points = entry_points(group=GROUP)
    if suffix not in points.names:
        known = ", ".join(f".{name}" for name in sorted(points.names)) or "none, since bnspec is not installed"
        raise refusal(
            LookupError,
            "BN-ERR-5",
            got=f"{os.fspath(path)!r} has the suffix {suffix!r}",
            expected=f"one of those that an installed package reads: {known}",
            do="The suffix chooses the format; rename the file.",
        )
    try:
        found: Any = points[suffix].load()
    except ImportError as error:
        raise refusal(
            ImportError,
            "BN-ERR-5",
            got=f"the format of {os.fspath(path)!r} cannot be had ({error})",
            expected="its library to be installed",
            do=f"Try `pip install bnspec[{EXTRAS.get(suffix, 'checkpoints')}]`.",
        ) from error
    return found(), suffix
