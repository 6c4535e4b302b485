"""Whether a mutant is killed: one attempt at it by the checks of its clause, and the same checks on the core itself."""

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bnspec_backends import cpu
from bnspec_conformance.mutants.declining import FEW, declining
from bnspec_conformance.mutants.mutant import CannotApply, Mutant
from bnspec_conformance.run.engine import Check, all_checks, attempt, checks_of
from bnspec_conformance.subjects import Subject, find_subject
from bnspec_conformance.subjects.time_limit import PATIENCE
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record, outcome_of

__all__ = ["Killing", "checks_for", "clean", "kill"]

#: How a check says that it could not finish. That is no finding of its clause.
_BROKE = ": the check broke: "

#: What a mutant raises that is not wrong batch normalization but wrong Python.
_ACCIDENTS = tuple(f": raised {name}:" for name in ("NameError", "UnboundLocalError", "AttributeError", "ImportError"))


@dataclass(frozen=True)
class Killing:
    """One attempt at one mutant with one seed.

    Attributes
    ----------
    mutant : str
    seed : int
    check : str
        The check that found it; empty if it survived.
    examples : int
        Cases that this check had run when it failed.
    seconds : float
        Of all checks up to this one.
    reason : str
        What the check said; or why the mutant survived.
    shrink : bool
        Whether the check looked for the smallest case.
    declines : str
        What the mutant declined, one of `declining.DECLINERS`, or nothing.
    """

    mutant: str
    seed: int
    check: str
    examples: int
    seconds: float
    reason: str
    shrink: bool = False
    declines: str = ""


def checks_for(mutants: Iterable[Mutant]) -> list[str]:
    """The names of the checks that these mutants are put to, in the order of the suite."""
    wanted = {mutant.clause for mutant in mutants}
    return [check.name for check in all_checks().values() if wanted & set(check.clauses)]


def kill(
    mutant: Mutant, seed: int, *, shrink: bool = False, declines: str = "", deadline: float | None = None
) -> Killing:
    """Put a mutant of bnspec on NumPy to the checks of its clause, and stop at the first that blames this clause.

    A check that breaks, or fails by an error of the mutant's own making such as a NameError, kills nothing: a mutant
    must be wrong about batch normalization.
    """
    started = time.perf_counter()
    reason = f"no check of {mutant.clause} failed"
    try:
        with mutant.apply():
            for check in checks_of(mutant.clause):
                record = _attempt(check, seed, shrink=shrink, declines=declines, deadline=deadline)
                said = record.reason.split("\n", 1)[0]
                if outcome_of(record, mutant.clause) != "failed":
                    if record.outcome == "failed":  # of other clauses, which is no finding of this one
                        blamed = ", ".join(record.broken)
                        reason = f"{check.name} blames {blamed}: {said}"
                    continue
                if _BROKE in said or any(accident in said for accident in _ACCIDENTS):
                    reason = f"{check.name} failed for no reason of its clause: {said}"
                    continue
                seconds = time.perf_counter() - started
                return Killing(mutant.name, seed, check.name, record.examples, seconds, said, shrink, declines)
    except CannotApply as error:
        reason = f"it cannot be applied: {error}"
    return Killing(mutant.name, seed, "", 0, time.perf_counter() - started, reason, shrink, declines)


def clean(check: str, seed: int, *, shrink: bool = False, declines: str = "", deadline: float | None = None) -> Record:
    """Put bnspec on NumPy, as it is or declining some cases, to a check."""
    return _attempt(all_checks()[check], seed, shrink=shrink, declines=declines, deadline=deadline)


def _attempt(check: Check, seed: int, *, shrink: bool, declines: str, deadline: float | None) -> Record:
    # It is the specification's own formulas that are mutated. NaN and overflow are what some mutants are about.
    with cpu.using("specification"), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        limit = PATIENCE if deadline is None else deadline
        budget = Budget(examples=FEW if shrink else None, seed=seed, shrink=shrink, deadline=limit)
        return attempt(check, declining(_subject(), declines), budget)


def _subject() -> Subject:
    return find_subject("numpy")
