"""Output files of a run, checked before it begins, so that its result is not lost to a wrong path."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["unusable"]


def unusable(files: Mapping[str, str | None], folders: Mapping[str, str | None]) -> str | None:
    """Return None, or why one of the outputs cannot be written, and what to do.

    Parameters
    ----------
    files, folders : mapping of str to str or None
        By option, such as ``--json``, what was asked for. Folders are made here if they are missing.
    """
    taken: dict[str, str] = {}
    for option, name in [*files.items(), *folders.items()]:
        if name is None:
            continue
        place = os.path.realpath(name)
        if place in taken:
            return f"{taken[place]} and {option} both write {name}; give each a path of its own."
        taken[place] = option
        problem = _file(Path(name)) if option in files else _folder(Path(name))
        if problem is not None:
            return f"{option} {name} cannot be written: {problem}"
    return None


def _file(path: Path) -> str | None:
    if path.is_dir():
        return "it is a folder; name a file in it."
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it first, or choose another path."
    there = path.exists()
    try:
        with path.open("a"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        return f"{error.strerror}; choose another path, or change its permissions."
    return None


def _folder(path: Path) -> str | None:
    if path.exists() and not path.is_dir():
        return "it is a file; name a folder."
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        return f"{error.strerror}; choose another path, or change its permissions."
    return None
