"""The gradient as a power series along a line: its coefficients are derivatives of higher order, without differences.

Where x and gamma move along a direction, at + t*along, every number of the formulas is a power series in t. A `Series`
is the list of its first coefficients; sums and products of series are exact but for rounding, and so is a power. The
coefficient of t is then the Hessian times the direction, twice that of t**2 the derivative of third order.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.cases.layout import layouts
from bnspec_conformance.oracle.in_float64 import Corrections

__all__ = ["Series", "gradient_series"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """The first coefficients of a power series of arrays, that of t**0 first."""

    terms: tuple[Floats, ...]

    @staticmethod
    def line(at: Floats, along: Floats, order: int) -> "Series":
        """Return ``at + t*along``."""
        return Series((at, along, *[np.zeros_like(at)] * (order - 1)))

    def __add__(self, other: "Series | Floats | float") -> "Series":
        if not isinstance(other, Series):
            return Series((self.terms[0] + other, *self.terms[1:]))
        return Series(tuple(a + b for a, b in zip(self.terms, other.terms, strict=True)))

    def __sub__(self, other: "Series") -> "Series":
        return self + other * -1.0

    def __mul__(self, other: "Series | Floats | float") -> "Series":
        if not isinstance(other, Series):
            return Series(tuple(a * other for a in self.terms))
        n = len(self.terms)
        made = [sum(self.terms[j] * other.terms[k - j] for j in range(k + 1)) for k in range(n)]
        return Series(tuple(np.asarray(v) for v in made))

    def power(self, p: float) -> "Series":
        """Return the series to a power; its constant term is positive."""
        first = self.terms[0]
        made = [first**p]
        for k in range(1, len(self.terms)):
            parts = [(p * j - (k - j)) * self.terms[j] * made[k - j] for j in range(1, k + 1)]
            made.append(np.asarray(sum(parts)) / (k * first))
        return Series(tuple(made))

    def sum(self) -> "Series":
        """Return the sum over the elements of a group, kept as an axis."""
        return Series(tuple(v.sum(axis=-1, keepdims=True) for v in self.terms))

    def derivative(self, order: int) -> Floats:
        """Return the derivative at t = 0."""
        return self.terms[order] * math.factorial(order)


def gradient_series(
    case: Case, x_along: Array, gamma_along: Array, corrections: Corrections, order: int
) -> tuple[Series, Series]:
    """Return dx and dgamma of a single process along a line, as BN-GRAD-1, 2, 6 and BN-MASK-4 define them.

    Parameters
    ----------
    case : Case
        One rank of finite x, with dy, dmean, dvar and gamma.
    x_along, gamma_along : array
        Direction in which x and gamma move.
    corrections : tuple of array
        Renorm's r and d, which stay what they are.
    order : int
        Of the last coefficient, at least 1.

    Returns
    -------
    dx, dgamma : Series
        Arrays of x's shape, and of shape (C,).
    """
    (rank,), (plan,) = case.ranks, layouts(case)
    assert case.gamma is not None
    assert case.dmean is not None
    assert case.dvar is not None
    live = plan.fold(np.ones(plan.shape) if rank.mask is None else as_float64(rank.mask))
    g = plan.fold(as_float64(rank.dy if rank.dy is not None else np.zeros(plan.shape)))
    n = np.maximum(live.sum(axis=2, keepdims=True), 1)
    r, d, dmean, dvar = (as_float64(v)[:, :, None] for v in (*corrections, case.dmean[0], case.dvar[0]))
    x = Series.line(plan.fold(as_float64(rank.x)), plan.fold(as_float64(x_along)), order)
    gamma = Series.line(as_float64(case.gamma)[None, :, None], as_float64(gamma_along)[None, :, None], order)
    centred = x - (x * live).sum() * (1 / n)
    istd = ((centred * centred * live).sum() * (1 / n) + case.config.epsilon).power(-0.5)
    xhat = centred * istd
    s1, s2 = g.sum(axis=2, keepdims=True), (xhat * g).sum()
    a = gamma * istd * r
    inside = (a * (xhat * s2 + s1)) * (-1 / n) + centred * (2 * dvar / n) + dmean / n
    dx = a * g + inside * live
    dgamma = s2 * r + d * s1
    return Series(tuple(plan.unfold(v) for v in dx.terms)), Series(tuple(v.sum(axis=(0, 2)) for v in dgamma.terms))
