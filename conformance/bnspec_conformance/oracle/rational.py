"""Exact arithmetic for the oracle: floats as integers with one exponent, roots to 220 bits, one rounding.

Every finite float is an integer times a power of two, so sums, products and quotients of floats are
rationals and are computed without error. The only irrational numbers are square roots. They carry a
relative error below 2**-219, so a result rounded from them to float64 (53 bits) is the correctly rounded
one unless the true value lies within 2**-160 or so of the middle between two floats. Roots that are
rational are exact.
"""

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import Array, as_float64

__all__ = ["Number", "dot", "integers", "linear", "number", "parameter", "power", "root", "rest", "rounded"]

#: A rational, or None for what is not a number (any dependence on a NaN or an infinity).
Number = Fraction | None

ROOT_BITS = 220


def power(exponent: int) -> Fraction:
    """2**exponent."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def number(value: float) -> Number:
    """Return the exact value of a float; None when it is not finite."""
    return Fraction(value) if math.isfinite(value) else None


def parameter(array: Array | None, present: bool, absent: float, channels: int) -> list[Number]:
    """Exact values of a parameter, `absent` where it does not exist."""
    if array is None or not present:
        return [Fraction(absent)] * channels
    return [number(v) for v in as_float64(array).tolist()]


def rounded(value: Number) -> float:
    """Return the nearest float64, ties to even; infinity beyond the largest; NaN for None."""
    if value is None:
        return math.nan
    try:
        return value.numerator / value.denominator  # CPython rounds the quotient of two integers correctly
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def root(value: Fraction) -> Fraction:
    """Return the square root of a rational >= 0: exact if rational, else within a relative 2**-219."""
    p, q = value.numerator, value.denominator
    rp, rq = math.isqrt(p), math.isqrt(q)
    if rp * rp == p and rq * rq == q:
        return Fraction(rp, rq)
    half = ROOT_BITS + 1 + (q.bit_length() - p.bit_length()) // 2
    square = (p << 2 * half) // q if half >= 0 else p // (q << -2 * half)
    return math.isqrt(square) * power(-half)


def rest(value: Number, near: float) -> float:
    """Return what a float misses of a number, rounded once; NaN where there is no number."""
    return math.nan if value is None or not math.isfinite(near) else rounded(value - Fraction(near))


def integers(values: npt.NDArray[np.float64]) -> tuple[list[int], Fraction]:
    """Finite floats as integers times one common unit, a power of two.

    Parameters
    ----------
    values : array
        Shape (L,), finite.

    Returns
    -------
    whole : list of int
        ``values[i] == whole[i] * unit`` exactly.
    unit : Fraction
    """
    mantissa, exponent = np.frexp(values)
    bits = 24 if np.all(np.ldexp(mantissa, 24) == np.rint(np.ldexp(mantissa, 24))) else 53
    nonzero = mantissa != 0
    if not nonzero.any():
        return [0] * len(values), Fraction(1)
    low = int(exponent[nonzero].min())
    shifts = np.where(nonzero, exponent - low, 0).tolist()
    whole = np.ldexp(mantissa, bits).astype(np.int64).tolist()
    return [w << s for w, s in zip(whole, shifts, strict=True)], power(low - bits)


def dot(a: Iterable[int], b: Iterable[int]) -> int:
    """Sum of products."""
    return sum(map(int.__mul__, a, b))


def linear(constant: Fraction, *terms: tuple[Fraction, list[int]]) -> list[float]:
    """``constant + sum_k factor_k * integers_k[i]`` for every i, each rounded once to float64."""
    denominator = math.lcm(constant.denominator, *(factor.denominator for factor, _ in terms))
    offset = constant.numerator * (denominator // constant.denominator)
    factors = [factor.numerator * (denominator // factor.denominator) for factor, _ in terms]
    if len(terms) == 1:
        numerators = [factors[0] * v + offset for v in terms[0][1]]
    else:
        rows = zip(*(column for _, column in terms), strict=True)
        numerators = [dot(factors, row) + offset for row in rows]
    try:
        return [v / denominator for v in numerators]
    except OverflowError:
        return [rounded(Fraction(v, denominator)) for v in numerators]
