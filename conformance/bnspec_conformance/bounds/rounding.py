"""Running error analysis: numbers that carry a bound of their own rounding error.

An `Approx` holds what a quantity should be and how far from it a computed value may lie. Each operation adds
what it inherits from its operands and what its own rounding can add:

    a + b:   e_a + e_b                                 + 2u(|a + b| + inherited)
    a * b:   |a| e_b + |b| e_a + e_a e_b               + 2u(|a b| + inherited) + eta
    a / b:   (e_a + |a/b| e_b) / (|b| - e_b)           + 2u(|a/b| + inherited) + eta
    root a:  sqrt(a + e_a) - sqrt(a - e_a), at most    + 2u(...)
    sum:     sum of e_i                                + gamma_n sum(|a_i| + e_i)

with u the roundoff, eta what underflow can cost, gamma_n = n u/(1 - n u) for n additions in any order (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1 and 4.2). Every single operation is charged 2u, not u: it
covers a quotient taken as a product with a reciprocal, a root within one unit of the last place, and a
compiler's choice to regroup a product of three. A magnitude beyond the arithmetic's largest number makes the
bound infinite: nothing is claimed there.
"""

import dataclasses
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["TWOFOLD_ROUNDOFF", "Approx", "Arithmetic", "arithmetic", "cast_error", "growth", "limits"]

Floats = npt.NDArray[np.float64]

#: Of a number kept as the sum of two float32: 48 bits, of which its sums and products lose two (Joldes, Muller and
#: Popescu, Tight and rigorous error bounds for basic building blocks of double-word arithmetic, 2017: at most 5u^2).
TWOFOLD_ROUNDOFF = 2.0**-46


@dataclass(frozen=True)
class Arithmetic:
    """One floating-point format with what can go wrong in it.

    Attributes
    ----------
    u : float
        Unit roundoff, half the distance from 1 to the next number.
    eta : float
        Largest error of a result that underflows: half the smallest subnormal (all of it for float64, which
        has no half of it), or the smallest normal number where subnormals are flushed.
    largest : float
        The largest finite number.
    """

    u: float
    eta: float
    largest: float


def limits(dtype: npt.DTypeLike) -> tuple[int, int, int]:
    """Bits of the significand after the point, exponent of the smallest and of the largest binade."""
    info = ml_dtypes.finfo(np.dtype(dtype))
    return int(info.nmant), int(info.minexp), int(info.maxexp) - 1


def arithmetic(dtype: npt.DTypeLike, flush: bool = False) -> Arithmetic:
    """Return the arithmetic of a dtype, or the one named "twofold", with or without subnormal numbers."""
    if isinstance(dtype, str) and dtype == "twofold":  # the exponents of float32, and nearly twice its digits
        return dataclasses.replace(arithmetic("float32", flush), u=TWOFOLD_ROUNDOFF)
    digits, low, high = limits(dtype)
    largest = (2.0 - 2.0**-digits) * 2.0**high
    return Arithmetic(2.0 ** -(digits + 1), 2.0**low if flush else max(2.0 ** (low - digits - 1), 5e-324), largest)


def growth(additions: Floats, u: float) -> Floats:
    """gamma_n = n u/(1 - n u), the relative error a sum of positive terms can gather; infinite from n u = 1 on."""
    nu = np.asarray(additions) * u
    return np.where(nu < 1, nu / np.where(nu < 1, 1 - nu, 1), np.inf)


def cast_error(reference: Floats, error: Floats, dtype: npt.DTypeLike, flush: bool) -> Floats:
    """Error after one more rounding, to `dtype`."""
    to = arithmetic(dtype, flush)
    return np.asarray(error + to.u * (np.abs(reference) + error) + to.eta)


@dataclass(frozen=True, eq=False)
class Approx:
    """A value, a bound of the error of its computed counterpart, and the arithmetic it is computed in."""

    value: Floats
    error: Floats
    within: Arithmetic

    def like(self, value: npt.ArrayLike, error: npt.ArrayLike = 0.0) -> "Approx":
        """Another number of the same arithmetic; exact unless said otherwise."""
        v = np.asarray(value, dtype=np.float64)
        return Approx(v, np.broadcast_to(np.asarray(error, dtype=np.float64), v.shape), self.within)

    def _rounded(self, value: Floats, inherited: Floats, underflow: float = 0.0) -> "Approx":
        size = np.abs(value) + inherited
        error = inherited + 2 * self.within.u * size + underflow
        return Approx(value, np.where(size > self.within.largest, np.inf, error), self.within)

    def __add__(self, other: "Approx") -> "Approx":
        return self._rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: "Approx") -> "Approx":
        return self._rounded(self.value - other.value, self.error + other.error)

    def __mul__(self, other: "Approx") -> "Approx":
        # An operand that is 0 for certain makes 0, however wrong the other may be.
        certain = ((self.value == 0) & (self.error == 0)) | ((other.value == 0) & (other.error == 0))
        a, b = np.abs(self.value), np.abs(other.value)
        inherited = np.where(certain, 0.0, a * other.error + b * self.error + self.error * other.error)
        return self._rounded(self.value * other.value, inherited, self.within.eta)

    def __truediv__(self, other: "Approx") -> "Approx":
        value = self.value / other.value
        room = np.abs(other.value) - other.error
        inherited = np.where(room > 0, (self.error + np.abs(value) * other.error) / np.where(room > 0, room, 1), np.inf)
        return self._rounded(value, inherited, self.within.eta)

    def root(self) -> "Approx":
        """Return the square root of a number >= 0."""
        value = np.sqrt(self.value)
        low = np.sqrt(np.maximum(self.value - self.error, 0.0))
        return self._rounded(value, self.error / np.maximum(value + low, 5e-324) * (self.error > 0))

    def sum(self, live: npt.NDArray[np.bool_], additions: Floats) -> "Approx":
        """Sum over the last axis where `live`; `additions` bounds the depth of the summation."""
        size = np.where(live, np.abs(self.value) + self.error, 0.0).sum(axis=-1)
        error = np.where(live, self.error, 0.0).sum(axis=-1) + growth(additions, self.within.u) * size
        value = np.where(live, self.value, 0.0).sum(axis=-1)
        return Approx(value, np.where(size > self.within.largest, np.inf, error), self.within)

    def at_most(self, error: npt.ArrayLike) -> "Approx":
        """Return the same number where the error is known to be no larger than `error`."""
        return Approx(self.value, np.minimum(self.error, error), self.within)

    def off_by(self, error: float | Floats) -> "Approx":
        """Return the same number with a further error."""
        return Approx(self.value, self.error + error, self.within)

    def where(self, condition: npt.NDArray[np.bool_], other: "Approx") -> "Approx":
        """Return these numbers where the condition holds, else the others."""
        value = np.where(condition, self.value, other.value)
        return Approx(value, np.where(condition, self.error, other.error), self.within)

    def into(self, within: Arithmetic) -> "Approx":
        """Return the same numbers converted to another arithmetic, rounded once; unchanged where it is their own."""
        if within == self.within:
            return self
        size = np.abs(self.value) + self.error
        error = self.error + within.u * size + within.eta
        return Approx(self.value, np.where(size > within.largest, np.inf, error), within)

    def lifted(self) -> "Approx":
        """Return the same numbers with one more axis at the end."""
        return Approx(self.value[..., None], self.error[..., None], self.within)

    def cast(self, dtype: npt.DTypeLike, flush: bool) -> "Approx":
        """Rounded to another dtype once."""
        return Approx(self.value, cast_error(self.value, self.error, dtype, flush), self.within)
