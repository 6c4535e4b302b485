"""Reading of rows from reports, so that the page can be made again without running anything."""

from collections.abc import Sequence
from pathlib import Path

from bnspec_conformance.matrix.merge import rows_of
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report.json_document import BadReport, read_report

__all__ = ["read_rows"]


def read_rows(paths: Sequence[str | Path]) -> list[MatrixRow]:
    """Return the rows of some reports, in the order of the files.

    Parameters
    ----------
    paths : sequence of str or Path
        Reports of ``matrix --json`` or ``run --json``; the latter have no findings of a probe.

    Raises
    ------
    BadReport
        If a file is no report, or if a subject is in two of them.
    """
    found: dict[str, tuple[MatrixRow, str | Path]] = {}
    for path in paths:
        for row in rows_of(read_report(path)):
            if row.name in found:
                raise BadReport(
                    f"{path} and {found[row.name][1]} both have the subject {row.name!r}; expected one row of each "
                    "subject, so leave one of the files out."
                )
            found[row.name] = row, path
    return [row for row, _ in found.values()]
