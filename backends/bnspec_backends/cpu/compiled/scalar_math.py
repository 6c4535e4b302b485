"""Arithmetic of one channel: the shift, the exact mean, the factors of both passes.

The formulas are those of `bnspec._normalize` and `bnspec._gradients`, in the same order.
"""

from typing import Any

import numpy

from bnspec_backends.cpu.compiled.dtypes import internal, widen
from bnspec_backends.cpu.plan import CANCELLATION

__all__ = ["coefficients", "exact_sum", "inverse_stddev", "needs_second_pass", "shift_of", "shifts_of_columns"]

#: Number of elements among which the shift of a channel is chosen.
_CANDIDATES = 16


@internal
def shift_of(x: Any, at: int, row_stride: int, run: int, rows: int, mask: Any, mask_at: int, mask_row: int) -> Any:
    """Return the shift of a channel: an element near its mean, from which deviations are measured.

    An element serves because a constant channel then deviates by exact zeros [BN-MOM-5]. Among the first few elements
    the one nearest to their mean is chosen, so that an outlier is not. With a mask the first element that counts is
    chosen.
    """
    if mask is not None:
        for n in range(rows):
            for i in range(run):
                if mask[mask_at + n * mask_row + i]:
                    return widen(x[at + n * row_stride + i])
        return 0.0
    total = 0.0
    taken = 0
    for n in range(min(rows, _CANDIDATES)):
        for i in range(min(run, _CANDIDATES - taken)):
            total += widen(x[at + n * row_stride + i])
            taken += 1
    middle = total / taken
    best = widen(x[at])
    distance = abs(best - middle)
    left = taken
    for n in range(min(rows, _CANDIDATES)):
        for i in range(min(run, left)):
            value = widen(x[at + n * row_stride + i])
            if abs(value - middle) < distance:
                best, distance = value, abs(value - middle)
            left -= 1
    return best


@internal
def shifts_of_columns(x: Any, at: int, stride: int, rows: int, shift: Any) -> None:
    """Choose the shifts of `shift_of` for neighbouring channels whose runs have one element, row by row."""
    middle, distance = numpy.zeros(shift.size), numpy.empty(shift.size)
    taken = min(rows, _CANDIDATES)
    for n in range(taken):
        row = x[at + n * stride : at + n * stride + shift.size]
        for c in range(shift.size):
            middle[c] += widen(row[c])
    row = x[at : at + shift.size]
    for c in range(shift.size):
        middle[c] /= taken
        shift[c] = widen(row[c])
        distance[c] = abs(shift[c] - middle[c])
    for n in range(1, taken):
        row = x[at + n * stride : at + n * stride + shift.size]
        for c in range(shift.size):
            value = widen(row[c])
            nearer = abs(value - middle[c]) < distance[c]
            distance[c] = abs(value - middle[c]) if nearer else distance[c]
            shift[c] = value if nearer else shift[c]


@internal
def exact_sum(a: float, b: float) -> Any:
    """Return fl(a + b) and its rounding error (Knuth, TAOCP 2, section 4.2.2, theorem B)."""
    s = a + b
    bb = s - a
    rest = (a - (s - bb)) + (b - bb)
    return s, rest


@internal
def needs_second_pass(cancelled: float, m2: float) -> Any:
    """Return whether ``sum (x - shift)^2 - n*(mean - shift)^2`` lost digits, overflowed or is NaN."""
    return not cancelled <= CANCELLATION * m2


@internal
def inverse_stddev(m2: float, count: int, epsilon: float) -> Any:
    """Return ``1/sqrt(m2/count + epsilon)``."""
    return 1.0 / numpy.sqrt(m2 / max(count, 1) + epsilon)


@internal
def coefficients(s1: float, s2: float, n: float, gamma: float, inverse: float, low: float) -> Any:
    """Return a, b, c of ``dx = a*dy + (b*(x - mean_high) + c)``."""
    a = gamma * inverse
    b = -a * (inverse * (inverse * (s2 / n)))
    c = -a * (s1 / n)
    return a, b, c - b * low
