"""Comparison of one array with another: within a bound, or to the bit, without regard to clauses."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds import violations
from bnspec_conformance.cases.case import Array, as_float64
from bnspec_conformance.trials.violations.violation import in_ulps

__all__ = ["Comparison", "Difference", "bitwise", "within_bound"]

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Difference:
    """One element that is off, as a report shows it.

    Attributes
    ----------
    index : tuple of int
    got, expected : float
    error, bound : float
        Absolute.
    error_ulp, bound_ulp : float
        The same in units of the last place.
    """

    index: Index
    got: float
    expected: float
    error: float
    bound: float
    error_ulp: float
    bound_ulp: float


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Elementwise comparison of an array with a reference.

    Attributes
    ----------
    got, want, bound : array
        One shape.
    error, share : array
        Absolute error, and the same as a share of the bound; 0 where that says nothing.
    wrong : array of bool
        Elements outside their bound.
    """

    got: Array
    want: Array
    bound: Array
    error: Array
    share: Array
    wrong: npt.NDArray[np.bool_]

    def worst(self) -> tuple[float, float, float] | None:
        """Return the largest share, with its error and bound in units of the last place; None without elements."""
        if not self.share.size:
            return None
        at = _largest(self.share)
        off, allowed = (in_ulps(float(v[at]), float(self.want[at]), self.got.dtype) for v in (self.error, self.bound))
        return float(self.share[at]), off, allowed

    def difference(self) -> Difference | None:
        """Return the element that exceeds its bound by most, or None; a value that is not finite comes first."""
        if not np.any(self.wrong):
            return None
        at = _largest(np.where(self.wrong, np.where(np.isfinite(self.error), self.share, np.inf), -1.0))
        got, want, bound = float(as_float64(self.got)[at]), float(self.want[at]), float(self.bound[at])
        off, allowed = (in_ulps(value, want, self.got.dtype) for value in (got - want, bound))
        return Difference(at, got, want, abs(got - want), bound, off, allowed)


def within_bound(got: Array, want: Array, bound: Array, *, any_nonfinite: bool) -> Comparison:
    """Compare an array with a reference of the same shape, each element within its bound.

    Parameters
    ----------
    got, want : array
        One shape.
    bound : array
        Broadcasts to that shape.
    any_nonfinite : bool
        Whether an infinity is accepted where the reference is NaN, as for statistics.
    """
    bound = np.broadcast_to(np.asarray(bound, dtype=np.float64), want.shape)
    wrong = violations(got, want, bound, got.dtype, any_nonfinite=any_nonfinite)
    with np.errstate(all="ignore"):
        error = np.abs(as_float64(got) - want)
        share = np.where(np.isfinite(error) & (bound > 0), error / np.where(bound > 0, bound, 1), 0.0)
    return Comparison(got, want, bound, error, share, wrong)


def bitwise(got: Array, want: Array) -> Difference | None:
    """Return the first element in which two arrays differ, or None; NaN equals NaN, and -0 equals 0."""
    a, b = as_float64(got), as_float64(want)
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not np.any(differs):
        return None
    at = _largest(differs)
    with np.errstate(all="ignore"):
        error = float(a[at] - b[at])
    return Difference(at, float(a[at]), float(b[at]), abs(error), 0.0, in_ulps(error, float(b[at]), got.dtype), 0.0)


def _largest(values: Any) -> Index:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))
