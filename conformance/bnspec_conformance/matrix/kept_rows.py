"""Rows that are kept in a folder, so that a long matrix can be cut and go on, or one row be made again."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.files.atomic_write import write_text

__all__ = ["keep", "kept"]


def kept(folder: Path, subject: str, arguments: Sequence[str]) -> MatrixRow | None:
    """Return the row of a subject that was kept, or None where there is none of these arguments.

    Parameters
    ----------
    folder : Path
    subject : str
    arguments : sequence of str
        Of ``run``. The content of a file that they name, of waivers, has to be the same too.
    """
    path = _path(folder, subject)
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        row = MatrixRow(**value["row"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no kept row ({error}); remove it.") from error
    return row if row.subject == subject and value.get("asked") == _asked(arguments) else None


def keep(folder: Path, row: MatrixRow, arguments: Sequence[str]) -> None:
    """Write a row that has a report."""
    if row.report is not None:
        folder.mkdir(parents=True, exist_ok=True)
        value = {"asked": _asked(arguments), "row": dataclasses.asdict(row)}
        write_text(_path(folder, row.subject), json.dumps(value))


def _path(folder: Path, subject: str) -> Path:
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in subject)
    return folder / f"{plain}-{hashlib.sha256(subject.encode()).hexdigest()[:8]}.json"


def _asked(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, a file among them by its content."""

    def one(word: str) -> str:
        path = Path(word)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else word

    return [one(word) for word in arguments]
