"""Findings of a probe, one per convention, and the matching of observations with hypotheses.

A `Guess` is one combination of hypotheses with the numbers that follow from it. All guesses that agree with what was
observed fit; a convention is measured when every guess that fits says the same of it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Declared", "Finding", "Guess", "Observation", "Reading", "compare", "read"]

#: Errors of this many roundoffs of a result's dtype are no difference: the hypotheses lie much further apart, and where
#: they do not, several fit and the answer is "ambiguous".
_ROUNDOFFS = 32
_FLOAT32 = 2.0**-24


class Declared(NamedTuple):
    """Declared value of a convention, and the source that declares it."""

    accepted: tuple[str, ...]
    source: str  # a row of dialects ("row torch"), a clause, "asked", or "subject"


class Observation(NamedTuple):
    """One quantity of an outcome."""

    values: Any  # float64, any shape
    roundoff: float  # of the dtype it came in


class Guess(NamedTuple):
    """One combination of hypotheses."""

    names: Mapping[str, str]  # convention: the hypothesis
    predicted: Mapping[str, Any]  # quantity: numbers that broadcast against the observed ones


@dataclass(frozen=True)
class Reading:
    """Values of one convention that fit the observations.

    Attributes
    ----------
    fits : tuple of str
        The hypotheses that agree with it: one is a measurement, several are ambiguous, none is none of the known.
    note : str
        The observation that fits no value, or the reason why there is none.
    observable : bool
        False where the subject cannot be asked.
    """

    fits: tuple[str, ...]
    note: str = ""
    observable: bool = True

    @property
    def text(self) -> str:
        """For the reader."""
        if not self.observable:
            return "not observable"
        if not self.fits:
            return "none of the known"
        return self.fits[0] if len(self.fits) == 1 else "ambiguous: " + " or ".join(self.fits)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of a probe's table.

    Attributes
    ----------
    group, convention : str
    measured, declared : str
        For the reader; declared is empty where nobody says anything.
    source : str
        Source of the declaration: "row torch", a clause of SPEC.md, "asked" or "subject".
    verdict : {"same", "differs", "undeclared", "ambiguous", "not observable"}
    note : str
        The numbers behind "none of the known", or the reason behind "not observable".
    """

    group: str
    convention: str
    measured: str
    declared: str
    source: str
    verdict: str
    note: str


def compare(group: str, convention: str, reading: Reading, declared: Declared | None) -> Finding:
    """Set what was measured beside what is declared."""
    if not reading.observable:
        verdict = "not observable"
    elif declared is None:
        verdict = "undeclared" if len(reading.fits) <= 1 else "ambiguous"
    elif len(reading.fits) > 1 and set(reading.fits) & set(declared.accepted):
        verdict = "same" if set(reading.fits) <= set(declared.accepted) else "ambiguous"
    else:
        verdict = "same" if reading.fits and set(reading.fits) <= set(declared.accepted) else "differs"
    return Finding(
        group=group,
        convention=convention,
        measured=reading.text,
        declared="" if declared is None else " or ".join(declared.accepted),
        source="" if declared is None else declared.source,
        verdict=verdict,
        note=reading.note,
    )


def read(guesses: Iterable[Guess], observed: Mapping[str, Observation], about: str, *, coarse: bool = True) -> Reading:
    """Return what the guesses that fit say of one convention.

    Quantities that were not observed are not compared; if that leaves a guess nothing to be compared by, it fits. With
    `coarse` results in float64 that fit no guess are compared again as if they were float32: a subject that computes in
    float32 throughout has a convention all the same, and its precision is a question of its own.
    """
    each = list(guesses)
    fitting = [guess for guess in each if _fits(guess, observed)]
    if coarse and not fitting:
        wide = {
            name: Observation(o.values, max(o.roundoff, _FLOAT32) if o.roundoff else 0.0)
            for name, o in observed.items()
        }
        fitting = [guess for guess in each if _fits(guess, wide)]
    note = "" if fitting else "saw " + ", ".join(f"{name} {_shown(o.values)}" for name, o in observed.items())
    return Reading(tuple(dict.fromkeys(guess.names[about] for guess in fitting)), note)


def _fits(guess: Guess, observed: Mapping[str, Observation]) -> bool:
    return all(_close(observed[name], want) for name, want in guess.predicted.items() if name in observed)


def _close(observed: Observation, want: Any) -> bool:
    got = np.asarray(observed.values, np.float64)
    try:
        wanted = np.broadcast_to(np.asarray(want, np.float64), got.shape)
    except ValueError:  # another number of samples came out
        return False
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True) or not np.all(np.isfinite(got[finite])):
        return False
    scale = float(np.max(np.abs(wanted[finite]), initial=0.0))
    return bool(np.all(np.abs(got[finite] - wanted[finite]) <= _ROUNDOFFS * observed.roundoff * scale))


def _shown(values: Any) -> str:
    flat: Sequence[float] = np.asarray(values, np.float64).ravel().tolist()
    shown = ", ".join("nan" if math.isnan(v) else f"{v:.6g}" for v in flat[:8])
    return f"[{shown}{', ...' if len(flat) > 8 else ''}]"
