"""Badges of the rows: a file for each subject that ran, by the name of the subject."""

from collections.abc import Sequence
from pathlib import Path

from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.badge import badge_name, write_badge

__all__ = ["write_badges"]


def write_badges(folder: str | Path, rows: Sequence[MatrixRow]) -> list[Path]:
    """Write the badge of each subject that ran, and return the files.

    Parameters
    ----------
    folder : str or Path
        Made if it is missing.
    rows : sequence of MatrixRow
        A subject that did not run gets no badge, and loses the one that an earlier run left.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for row in rows:
        path = place / badge_name(row.name)
        if row.report is None:
            path.unlink(missing_ok=True)
        else:
            write_badge(path, row.report)
            written.append(path)
    return written
