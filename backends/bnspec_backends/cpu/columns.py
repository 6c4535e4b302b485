"""Kernels for channels in short runs, such as NHWC images and (N, C) matrices: many channels side by side.

A row of memory holds all channels, so sums go down the columns. A *block* is some rows of one group by some
channels, (first row, rows, first channel, channels, step): all channels of some rows where a row is short, all
rows of some channels where it is long, then ``step`` channels at a time. Narrow rows that follow each other
without a gap are folded into one, so that the inner loop is long.

Arrays and masks are as in `runs`. Statistics are one number a channel of the block's group; sums of a block
go to one row of an array of partial sums, which are added in order of blocks.
"""

from typing import Any

import numpy

from bnspec_backends.cpu.arithmetic import coefficients, exact_sum, inverse_stddev, needs_second_pass, shift_of
from bnspec_backends.cpu.rows import gradient_row, normalize_row
from bnspec_backends.cpu.storage import add, add_product, compiled, widen
from bnspec_backends.cpu.stream import fence

__all__ = [
    "backward", "correct", "finish", "forward", "grad_input", "grad_sums", "normalize", "shifts", "squares", "sums",
]  # fmt: skip

#: Rows are folded until they have this many columns.
_WIDE = 512


@compiled
def _part(block: Any, channel: int) -> Any:
    """The channels of a block that are dealt with at once: (first row, rows, first channel, channels)."""
    return block[0], block[1], channel, min(block[4], block[2] + block[3] - channel)


@compiled
def _fold(part: Any, a: Any, b: Any, c: Any) -> Any:
    """How many rows the inner loop takes at once: several only where they follow each other in all arrays."""
    period = a[1][2] * part[3]
    if a[1][0] != period or b[1][0] != period or c[1][0] != period:
        return 1
    return max(1, min(_WIDE // period, part[1]))


@compiled
def _row(array: Any, part: Any, n: int, size: int) -> Any:
    """Row n of a part, and as many of the next as the size says."""
    at = (part[0] + n) * array[1][0] + part[2] * array[1][2]
    return array[0][at : at + size]


@compiled
def _tile(values: Any, part: Any, run: int, fold: int) -> Any:
    """Repeat one number a channel to one a column."""
    tile = numpy.empty(fold * run * part[3])
    j = 0
    for _ in range(fold):
        for c in range(part[2], part[2] + part[3]):
            for _ in range(run):
                tile[j] = values[c]
                j += 1
    return tile


@compiled
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


@compiled
def _sums(x: Any, mask: Any, part: Any, shift: Any, s1: Any, s2: Any) -> None:
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


@compiled
def _normalize(x: Any, y: Any, part: Any, centre: Any, scale: Any, shift: Any, stream: bool) -> None:
    run = x[1][2]
    fold = _fold(part, x, y, y)
    k, a, b = _tile(centre, part, run, fold), _tile(scale, part, run, fold), _tile(shift, part, run, fold)
    for n in range(0, part[1], fold):
        size = min(fold, part[1] - n) * run * part[3]
        normalize_row(_row(x, part, n, size), _row(y, part, n, size), k, a, b, stream)


@compiled
def _grad_sums(dy: Any, x: Any, mask: Any, part: Any, centre: Any, s1: Any, s2: Any) -> None:
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


@compiled
def _grad_input(dy: Any, x: Any, dx: Any, mask: Any, part: Any, factors: Any, stream: bool) -> None:
    run = x[1][2]
    fold = _fold(part, x, dy, dx)
    if mask is not None:
        fold = min(fold, _fold(part, mask, mask, mask))
    k, a = _tile(factors[0], part, run, fold), _tile(factors[1], part, run, fold)
    b, c = _tile(factors[2], part, run, fold), _tile(factors[3], part, run, fold)
    for n in range(0, part[1], fold):
        size = min(fold, part[1] - n) * run * part[3]
        values, cotangents, target = _row(x, part, n, size), _row(dy, part, n, size), _row(dx, part, n, size)
        if mask is None:
            gradient_row(cotangents, values, target, k, a, b, c, None, stream)
        else:
            gradient_row(cotangents, values, target, k, a, b, c, _row(mask, part, n, size), False)


@compiled
def shifts(x: Any, mask: Any, row: int, rows: int, first: int, last: int, shift: Any) -> None:
    """Choose the shift of channels first .. last - 1 of one group."""
    stride, _, run, _, _ = x[1]
    for c in range(first, last):
        if mask is None:
            shift[c] = shift_of(x[0], row * stride + c * run, stride, run, rows, None, 0, 0)
        else:
            at = row * mask[1][0] + c * run
            shift[c] = shift_of(x[0], row * stride + c * run, stride, run, rows, mask[0], at, mask[1][0])


@compiled
def sums(x: Any, mask: Any, block: Any, shift: Any, s1: Any, s2: Any) -> None:
    """Primitive 1 but for `shifts` and `finish`: sum deviations from the shift, and their squares."""
    for channel in range(block[2], block[2] + block[3], block[4]):
        _sums(x, mask, _part(block, channel), shift, s1, s2)


@compiled
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


@compiled
def squares(x: Any, mask: Any, block: Any, high: Any, low: Any, m2: Any) -> None:
    """Sum the squared deviations from the mean: the second pass where the first cancelled."""
    run = x[1][2]
    part = _part(block, block[2])
    part = (part[0], part[1], part[2], block[3])
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


@compiled
def correct(s1: Any, count: int, second: Any, first: int, last: int, m2: Any) -> None:
    """Take the second pass where the first cancelled."""
    for c in range(first, last):
        if count > 0 and needs_second_pass(s1[c] * (s1[c] / count), m2[c]):
            m2[c] = second[c]


@compiled
def normalize(x: Any, y: Any, block: Any, centre: Any, scale: Any, shift: Any, stream: bool) -> None:
    """Primitive 2."""
    for channel in range(block[2], block[2] + block[3], block[4]):
        _normalize(x, y, _part(block, channel), centre, scale, shift, stream)
    if stream:
        fence()


@compiled
def grad_sums(dy: Any, x: Any, mask: Any, block: Any, centre: Any, s1: Any, s2: Any) -> None:
    """Primitive 3."""
    for channel in range(block[2], block[2] + block[3], block[4]):
        _grad_sums(dy, x, mask, _part(block, channel), centre, s1, s2)


@compiled
def grad_input(dy: Any, x: Any, dx: Any, mask: Any, block: Any, factors: Any, stream: bool) -> None:
    """Primitive 4; factors are centre, a, b, c."""
    for channel in range(block[2], block[2] + block[3], block[4]):
        _grad_input(dy, x, dx, mask, _part(block, channel), factors, stream)
    if stream:
        fence()


@compiled
def forward(
    x: Any, y: Any, block: Any, count: int, epsilon: float, gamma: Any, beta: Any, stats: Any, stream: bool
) -> None:
    """Primitives 1 and 2 of a block that holds all rows of its group; leaves mean, low, m2 and inverse."""
    mean, low, m2, inverse = stats
    shift, s1, s2, scale = (
        numpy.empty(mean.size),
        numpy.empty(mean.size),
        numpy.empty(mean.size),
        numpy.empty(mean.size),
    )
    for first in range(block[2], block[2] + block[3], block[4]):
        part = _part(block, first)
        last = first + part[3]
        shifts(x, None, part[0], part[1], first, last, shift)
        _sums(x, None, part, shift, s1, s2)
        if finish(shift, s1, s2, count, first, last, mean, low, m2):
            squares(x, None, (part[0], part[1], first, part[3], part[3]), mean, low, scale)
            correct(s1, count, scale, first, last, m2)
        for c in range(first, last):
            inverse[c] = inverse_stddev(m2[c], count, epsilon)
            scale[c] = gamma[c] * inverse[c]
            shift[c] = beta[c] - low[c] * scale[c]
        _normalize(x, y, part, mean, scale, shift, stream)
    if stream:
        fence()


@compiled
def backward(
    dy: Any, x: Any, dx: Any, block: Any, divisor: float, gamma: Any, stats: Any, sums: Any, stream: bool
) -> None:
    """Primitives 3 and 4 of a block that holds all rows of its group; leaves what `runs.backward` does."""
    mean, low, inverse = stats
    s1, s2 = sums
    a, b, c = numpy.empty(mean.size), numpy.empty(mean.size), numpy.empty(mean.size)
    for first in range(block[2], block[2] + block[3], block[4]):
        part = _part(block, first)
        _grad_sums(dy, x, None, part, mean, s1, s2)
        for i in range(first, first + part[3]):
            s2[i] -= low[i] * s1[i]
            a[i], b[i], c[i] = coefficients(s1[i], s2[i], divisor, gamma[i], inverse[i], low[i])
        _grad_input(dy, x, dx, None, part, (mean, a, b, c), stream)
    if stream:
        fence()
