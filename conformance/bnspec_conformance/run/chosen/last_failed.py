"""Failures of an earlier run, read from its report, for a run of these alone. The file decides about nothing else."""

from collections.abc import Iterable
from pathlib import Path

from bnspec_conformance.report import BadReport, read_report
from bnspec_conformance.run.engine import all_checks

__all__ = ["last_failed"]


def last_failed(path: str | Path, subjects: Iterable[str]) -> dict[str, set[str]]:
    """Return the checks that failed last time, by the names of the subjects that are asked for.

    The subjects are those of the command line; the file starts none. A run that was cut has failed in what was running.

    Parameters
    ----------
    path : str or Path
        A report of ``run --json``.
    subjects : iterable of str

    Raises
    ------
    BadReport
        If the file is no report, does not know a subject, names a check that the suite does not have, or has no failure
        to run again.
    """
    content = read_report(path)
    names = list(subjects)
    known = [subject["name"] for subject in content["subjects"]]
    absent = [name for name in names if name not in known]
    if absent:
        raise BadReport(f"{path} is about {' and '.join(known) or 'no subject'}, and not about {absent[0]}.")
    records = [*content["checks"], *([content["running"]] if content.get("running") else [])]
    failed = [record for record in records if record["outcome"] == "failed" and record["subject"] in names]
    gone = [record["check"] for record in failed if record["check"] not in all_checks()]
    if gone:
        raise BadReport(
            f"{path} names the check {gone[0]!r}, which this version of the suite does not have; run without "
            "--last-failed."
        )
    if not failed:
        raise BadReport(f"{path} has no failure of {' or '.join(names)}; there is nothing to run again.")
    return {name: {record["check"] for record in failed if record["subject"] == name} for name in names}
