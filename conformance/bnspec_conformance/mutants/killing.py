"""Attempts to kill a mutant by the checks of its clause, and the same checks of the core itself."""

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bnspec_backends import cpu
from bnspec_conformance.mutants.declining import FEW, declining
from bnspec_conformance.mutants.mutant import CannotApply, Mutant, parts
from bnspec_conformance.mutants.overriding import Override
from bnspec_conformance.run.engine import Check, all_checks, attempt, checks_of
from bnspec_conformance.subjects import find_subject
from bnspec_conformance.subjects.time_limit import PATIENCE
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record, outcome_of

__all__ = ["Killing", "Way", "checks_for", "clean", "kernels_of", "kill"]

#: How a check says that it could not finish. That is no finding of its clause.
_BROKE = ": the check broke: "

#: What a mutant raises that is not wrong batch normalization but wrong Python.
_ACCIDENTS = tuple(f": raised {name}:" for name in ("NameError", "UnboundLocalError", "AttributeError", "ImportError"))


@dataclass(frozen=True)
class Way:
    """One way of putting a check to bnspec on NumPy.

    Attributes
    ----------
    seed : int
        Of all cases.
    kernels : {"specification", "compiled"}
        Name of the kernels that serve NumPy arrays, or that a mutant's are made from.
    shrink : bool
        Whether the check looks for the smallest case.
    declines : str
        Cases that are declined, one of `declining.DECLINERS`, or nothing.
    deadline : float or None
        Seconds for one case; None for the usual ones.
    """

    seed: int
    kernels: str = "specification"
    shrink: bool = False
    declines: str = ""
    deadline: float | None = None


@dataclass(frozen=True)
class Killing:
    """One attempt at one mutant in one way.

    Attributes
    ----------
    mutant : str
    way : Way
    check : str
        The check that found it; empty if it survived.
    examples : int
        Cases that this check had run when it failed.
    seconds : float
        Of all checks up to this one.
    reason : str
        Text of the check's finding; or why the mutant survived.
    """

    mutant: str
    way: Way
    check: str
    examples: int
    seconds: float
    reason: str


def checks_for(mutants: Iterable[Mutant]) -> list[str]:
    """The names of the checks that these mutants are put to, in the order of the suite."""
    wanted = {mutant.clause for mutant in mutants}
    return [check.name for check in all_checks().values() if wanted & set(check.clauses)]


def kernels_of(mutant: Mutant) -> tuple[str, ...]:
    """Name the kernels that a mutant can be made from here: any, if it consists of overridden methods alone."""
    overrides = all(isinstance(part, Override) for part in parts(mutant.apply))
    return ("specification", "compiled") if overrides and not cpu.not_compiled() else ("specification",)


def kill(mutant: Mutant, way: Way) -> Killing:
    """Put a mutant of bnspec on NumPy to the checks of its clause, and stop at the first that blames this clause.

    A check that breaks, or fails by an error of the mutant's own making such as a NameError, kills nothing: a mutant
    must be wrong about batch normalization.
    """
    started = time.perf_counter()
    reason = f"no check of {mutant.clause} failed"
    try:
        with cpu.using(way.kernels), mutant.apply():
            for check in checks_of(mutant.clause):
                record = _attempt(check, way)
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
                return Killing(mutant.name, way, check.name, record.examples, seconds, said)
    except CannotApply as error:
        reason = f"it cannot be applied: {error}"
    return Killing(mutant.name, way, "", 0, time.perf_counter() - started, reason)


def clean(check: str, way: Way) -> Record:
    """Put bnspec on NumPy, as it is or declining some cases, to a check."""
    with cpu.using(way.kernels):
        return _attempt(all_checks()[check], way)


def _attempt(check: Check, way: Way) -> Record:
    # NaN and overflow are what some mutants are about.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        limit = PATIENCE if way.deadline is None else way.deadline
        budget = Budget(examples=FEW if way.shrink else None, seed=way.seed, shrink=way.shrink, deadline=limit)
        return attempt(check, declining(find_subject("numpy"), way.declines), budget)
