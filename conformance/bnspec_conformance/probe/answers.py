"""Answers of a subject under the probe: its results, or the kind of error that came instead."""

import warnings
from collections.abc import Mapping
from typing import Protocol

import ml_dtypes
import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.probe.findings import Observation
from bnspec_conformance.subjects import NotSupported, ProgramError

__all__ = ["Answering", "BrokenCase", "RefusedCase", "Unobservable", "answer", "observed", "roundoff"]


class Answering(Protocol):
    """Runner of cases: a subject, or a layer that it makes."""

    def run(self, case: Case) -> Outcome:
        """Run the case."""
        ...


class Unobservable(Exception):
    """The subject cannot be asked; the text says why."""


class RefusedCase(Exception):
    """The subject raised instead of answering; the text is its own."""


class BrokenCase(Exception):
    """The subject neither answered nor refused: its program died, or it has no such operation."""


def answer(subject: Answering, case: Case) -> tuple[RankOutcome, ...]:
    """Run a case and return the results of its ranks.

    Raises
    ------
    Unobservable
        If the subject says that it cannot run the case.
    RefusedCase
        If it raises.
    BrokenCase
        If it raises what is no refusal.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return tuple(subject.run(case).ranks)
    except NotSupported as reason:
        raise Unobservable(str(reason)) from reason
    except (ProgramError, NotImplementedError) as error:
        raise BrokenCase(_told(error)) from error
    except Exception as error:
        raise RefusedCase(_told(error)) from error


def observed(state: Mapping[str, Array]) -> dict[str, Observation]:
    """Return the arrays of a state for the comparison with guesses."""
    return {name: Observation(as_float64(array), roundoff(array)) for name, array in state.items()}


def roundoff(array: Array) -> float:
    """Return the unit roundoff of an array's dtype; 0 for integers, which are right or wrong."""
    if np.issubdtype(array.dtype, np.integer):
        return 0.0
    return float(ml_dtypes.finfo(array.dtype).eps) / 2


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
