"""Loops over the columns of a part: some rows of one group, by neighbouring channels.

A row of memory holds all channels, so sums go down the columns. A part is (first row, rows, first channel,
channels). Narrow rows that follow each other without a gap are folded into one, so that the inner loop is long.
Arrays and masks are as in `channel_major`; statistics are one number a channel.
"""

from typing import Any

import numpy

from bnspec_backends.cpu.compiled.dtypes import add, add_product, internal, widen
from bnspec_backends.cpu.compiled.elementwise import AT_ONCE, gradient_masked, gradient_rows, normalize_rows
from bnspec_backends.cpu.compiled.near_factors import near_affine, near_gradient
from bnspec_backends.cpu.compiled.scalar_math import exact_sum, needs_second_pass, shift_of, shifts_of_columns

__all__ = [
    "choose_shifts", "correct", "differentiate_part", "finish", "join", "normalize_part", "part_of", "sum_deviations",
    "sum_gradients", "sum_squares",
]  # fmt: skip

#: Rows are folded until they have this many columns.
_WIDE = 512


@internal
def part_of(block: Any, channel: int) -> Any:
    """Return the channels of a block that are computed at once: (first row, rows, first channel, channels)."""
    return block[0], block[1], channel, min(block[4], block[2] + block[3] - channel)


@internal
def _fold(part: Any, a: Any, b: Any, c: Any) -> Any:
    """Return how many rows the inner loop takes at once: several only if they follow each other in all arrays."""
    period = a[1][2] * part[3]
    if a[1][0] != period or b[1][0] != period or c[1][0] != period:
        return 1
    return max(1, min(_WIDE // period, part[1]))


@internal
def _row(array: Any, part: Any, n: int, size: int) -> Any:
    """Return ``size`` elements from the start of row n of a part."""
    at = (part[0] + n) * array[1][0] + part[2] * array[1][2]
    return array[0][at : at + size]


@internal
def _rows(array: Any, part: Any, n: int) -> Any:
    """Return the elements from the start of row n of a part to the end of the array."""
    return array[0][(part[0] + n) * array[1][0] + part[2] * array[1][2] :]


@internal
def _tile(values: Any, part: Any, run: int, fold: int) -> Any:
    """Repeat one number a channel to one a column."""
    own = values[part[2] : part[2] + part[3]]
    if run == fold == 1:
        return own
    tile = numpy.empty(fold * run * own.size)
    j = 0
    for _ in range(fold):
        for c in range(own.size):
            for i in range(run):
                tile[j + i] = own[c]
            j += run
    return tile


@internal
def _collect(columns: Any, part: Any, run: int, fold: int, out: Any) -> None:
    """Add the columns of each channel."""
    for c in range(part[2], part[2] + part[3]):
        out[c] = 0.0
    j = 0
    for _ in range(fold):
        for c in range(part[2], part[2] + part[3]):
            total = 0.0
            for _ in range(run):
                total += columns[j]
                j += 1
            out[c] += total


@internal
def choose_shifts(x: Any, mask: Any, row: int, rows: int, first: int, last: int, shift: Any) -> None:
    """Choose the shift of channels first .. last - 1 of one group."""
    stride, _, run, _, _ = x[1]
    if mask is None and run == 1:
        shifts_of_columns(x[0], row * stride + first, stride, rows, shift[first:last])
        return
    for c in range(first, last):
        if mask is None:
            shift[c] = shift_of(x[0], row * stride + c * run, stride, run, rows, None, 0, 0)
        else:
            at = row * mask[1][0] + c * run
            shift[c] = shift_of(x[0], row * stride + c * run, stride, run, rows, mask[0], at, mask[1][0])


@internal
def sum_deviations(x: Any, mask: Any, part: Any, shift: Any, s1: Any, s2: Any) -> None:
    """Sum deviations from the shift, and their squares."""
    run = x[1][2]
    fold = _fold(part, x, x, x) if mask is None else _fold(part, x, mask, mask)
    k = _tile(shift, part, run, fold)
    a, b = numpy.zeros(k.size), numpy.zeros(k.size)
    start = 0
    if mask is None and fold == 1:  # wide rows: four at once, so that the sums are read and written less often
        start = part[1] // 4 * 4
        for n in range(0, start, 4):
            v0, v1 = _row(x, part, n, k.size), _row(x, part, n + 1, k.size)
            v2, v3 = _row(x, part, n + 2, k.size), _row(x, part, n + 3, k.size)
            for j in range(k.size):
                d0, d1, d2, d3 = widen(v0[j]) - k[j], widen(v1[j]) - k[j], widen(v2[j]) - k[j], widen(v3[j]) - k[j]
                a[j] += (d0 + d1) + (d2 + d3)
                b[j] = add_product(add_product(add_product(add_product(b[j], d0, d0), d1, d1), d2, d2), d3, d3)
    for n in range(start, part[1], fold):
        values = _row(x, part, n, min(fold, part[1] - n) * run * part[3])
        if mask is None:
            for j in range(values.size):
                d = widen(values[j]) - k[j]
                a[j] = add(a[j], d)
                b[j] = add_product(b[j], d, d)
        else:
            keep = _row(mask, part, n, values.size)
            for j in range(values.size):
                d = widen(values[j]) - k[j] if keep[j] else 0.0
                a[j] = add(a[j], d)
                b[j] = add_product(b[j], d, d)
    _collect(a, part, run, fold, s1)
    _collect(b, part, run, fold, s2)


@internal
def finish(shift: Any, s1: Any, s2: Any, count: int, first: int, last: int, mean: Any, low: Any, m2: Any) -> Any:
    """Turn sums about the shift into moments; return whether a channel needs a second pass."""
    again = False
    for c in range(first, last):
        if count == 0:
            mean[c], low[c], m2[c] = 0.0, 0.0, 0.0
            continue
        offset = s1[c] / count
        mean[c], low[c] = exact_sum(shift[c], offset)
        m2[c] = s2[c] - s1[c] * offset
        again = again or needs_second_pass(s1[c] * offset, m2[c])
    return again


@internal
def sum_squares(x: Any, mask: Any, part: Any, high: Any, low: Any, m2: Any) -> None:
    """Sum the squared deviations from the mean, in the second pass of channels whose first one cancelled."""
    run = x[1][2]
    k, rest = _tile(high, part, run, 1), _tile(low, part, run, 1)
    b = numpy.zeros(k.size)
    for n in range(part[1]):
        values = _row(x, part, n, k.size)
        if mask is None:
            for j in range(values.size):
                d = (widen(values[j]) - k[j]) - rest[j]
                b[j] = add_product(b[j], d, d)
        else:
            keep = _row(mask, part, n, k.size)
            for j in range(values.size):
                d = (widen(values[j]) - k[j]) - rest[j] if keep[j] else 0.0
                b[j] = add_product(b[j], d, d)
    _collect(b, part, run, 1, m2)


@internal
def correct(s1: Any, count: int, second: Any, first: int, last: int, m2: Any) -> None:
    """Replace m2 by the result of the second pass in channels whose first one cancelled."""
    for c in range(first, last):
        if count > 0 and needs_second_pass(s1[c] * (s1[c] / count), m2[c]):
            m2[c] = second[c]


@internal
def join(sums: Any) -> None:
    """Add the parts of each group to its first, in their order."""
    for k in range(sums.shape[0]):
        for g in range(sums.shape[1]):
            total = sums[k, g, 0]
            for p in range(1, sums.shape[2]):
                one = sums[k, g, p]
                for c in range(total.size):
                    total[c] += one[c]


@internal
def normalize_part(x: Any, y: Any, part: Any, centre: Any, scale: Any, shift: Any, stream: bool) -> None:
    """Write ``(x - centre)*scale + shift`` for a part."""
    run = x[1][2]
    fold = _fold(part, x, y, y)
    k, a, b = _tile(centre, part, run, fold), _tile(scale, part, run, fold), _tile(shift, part, run, fold)
    near = near_affine(x[0], y[0], k, a, b)
    many = 1 if stream or fold > 1 else AT_ONCE
    n = 0
    while n < part[1]:
        rows = many if n + many <= part[1] else 1
        size = min(fold, part[1] - n) * run * part[3]
        of, to = _rows(x, part, n), _rows(y, part, n)
        normalize_rows(of, x[1][0], to, y[1][0], rows, size, near, (k, a, b), stream)
        n += rows * fold


@internal
def sum_gradients(dy: Any, x: Any, mask: Any, part: Any, centre: Any, s1: Any, s2: Any) -> None:
    """Sum dy and ``dy*(x - centre)`` over a part."""
    run = x[1][2]
    fold = _fold(part, x, dy, dy) if mask is None else _fold(part, x, dy, mask)
    k = _tile(centre, part, run, fold)
    a, b = numpy.zeros(k.size), numpy.zeros(k.size)
    start = 0
    if mask is None and fold == 1:
        start = part[1] // 2 * 2
        for n in range(0, start, 2):
            v0, v1 = _row(x, part, n, k.size), _row(x, part, n + 1, k.size)
            g0, g1 = _row(dy, part, n, k.size), _row(dy, part, n + 1, k.size)
            for j in range(k.size):
                e0, e1 = widen(g0[j]), widen(g1[j])
                a[j] += e0 + e1
                b[j] = add_product(add_product(b[j], e0, widen(v0[j]) - k[j]), e1, widen(v1[j]) - k[j])
    for n in range(start, part[1], fold):
        values = _row(x, part, n, min(fold, part[1] - n) * run * part[3])
        cotangents = _row(dy, part, n, values.size)
        if mask is None:
            for j in range(values.size):
                g = widen(cotangents[j])
                a[j] = add(a[j], g)
                b[j] = add_product(b[j], g, widen(values[j]) - k[j])
        else:
            keep = _row(mask, part, n, values.size)
            for j in range(values.size):
                g = widen(cotangents[j]) if keep[j] else 0.0
                d = widen(values[j]) - k[j] if keep[j] else 0.0
                a[j] = add(a[j], g)
                b[j] = add_product(b[j], g, d)
    _collect(a, part, run, fold, s1)
    _collect(b, part, run, fold, s2)


@internal
def differentiate_part(dy: Any, x: Any, dx: Any, mask: Any, part: Any, factors: Any, stream: bool) -> None:
    """Write ``a*dy + b*(x - centre) + c`` for a part; the factors are centre, a, b, c."""
    run = x[1][2]
    fold = _fold(part, x, dy, dx)
    if mask is not None:
        fold = min(fold, _fold(part, mask, mask, mask))
    k, a = _tile(factors[0], part, run, fold), _tile(factors[1], part, run, fold)
    b, c = _tile(factors[2], part, run, fold), _tile(factors[3], part, run, fold)
    if mask is not None:
        for n in range(0, part[1], fold):
            size = min(fold, part[1] - n) * run * part[3]
            values, cotangents, target = _row(x, part, n, size), _row(dy, part, n, size), _row(dx, part, n, size)
            gradient_masked(cotangents, values, target, k, a, b, c, _row(mask, part, n, size))
        return
    near = near_gradient(dy[0], x[0], dx[0], run * x[1][3], k, a, b, c)
    many = 1 if stream or fold > 1 else AT_ONCE
    n = 0
    while n < part[1]:
        rows = many if n + many <= part[1] else 1
        size = min(fold, part[1] - n) * run * part[3]
        g, of, to = _rows(dy, part, n), _rows(x, part, n), _rows(dx, part, n)
        gradient_rows(g, dy[1][0], of, x[1][0], to, dx[1][0], rows, size, near, (k, a, b, c), stream)
        n += rows * fold
