"""One check of a run, wherever it is run: the attempt, and the hints that a failure gives."""

from collections.abc import Collection

from bnspec_conformance.run.engine import all_checks
from bnspec_conformance.run.jobs.hints import hinted
from bnspec_conformance.run.restricted import without_dtypes
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record

__all__ = ["run_check"]


def run_check(check: str, subject: Subject, budget: Budget, without: Collection[str] = ()) -> Record | None:
    """Run a check by its name; an error of the check itself is raised.

    Parameters
    ----------
    check : str
        ``module::function``.
    subject : Subject
    budget : Budget
    without : collection of str
        Dtypes of x that are left out.

    Returns
    -------
    Record or None
        None where no dtype is left.
    """
    asked = without_dtypes(subject, without) if without else subject
    if asked is None:
        return None
    known = all_checks()[check]
    return hinted(known.attempt(asked, budget), known, asked, budget)
