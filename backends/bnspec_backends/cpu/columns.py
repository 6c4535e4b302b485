"""Kernels for channels in short runs, such as NHWC images and (N, C) matrices: many channels side by side.

A row of memory holds all channels, so sums go down the columns. A *block* is some rows of one group by some
channels, (first row, rows, first channel, channels, step, group, part): all channels of some rows where a row is
short, all rows of some channels where it is long, then ``step`` channels at a time. Narrow rows that follow each
other without a gap are folded into one, so that the inner loop is long.

Arrays, masks and ``mail`` are as in `runs`. Statistics have a row for each group and a number for each channel;
sums also have a row for each part of a group, and parts are added in their order.
"""

from typing import Any

import numpy

from bnspec_backends.cpu.arithmetic import (
    coefficients,
    exact_sum,
    inverse_stddev,
    needs_second_pass,
    shift_of,
    shifts_of_columns,
)
from bnspec_backends.cpu.gang import each
from bnspec_backends.cpu.lines import fence
from bnspec_backends.cpu.rows import AT_ONCE, gradient_masked, gradient_rows, normalize_rows
from bnspec_backends.cpu.storage import add, add_product, compiled, internal, widen

__all__ = [
    "backward", "between_backward", "between_forward", "forward", "grad_input", "grad_sums", "moments", "normalize",
]  # fmt: skip

#: Rows are folded until they have this many columns.
_WIDE = 512

#: Channels whose shifts are chosen at once.
_PIECE = 256


@internal
def _part(block: Any, channel: int) -> Any:
    """The channels of a block that are dealt with at once: (first row, rows, first channel, channels)."""
    return block[0], block[1], channel, min(block[4], block[2] + block[3] - channel)


@internal
def _fold(part: Any, a: Any, b: Any, c: Any) -> Any:
    """How many rows the inner loop takes at once: several only where they follow each other in all arrays."""
    period = a[1][2] * part[3]
    if a[1][0] != period or b[1][0] != period or c[1][0] != period:
        return 1
    return max(1, min(_WIDE // period, part[1]))


@internal
def _row(array: Any, part: Any, n: int, size: int) -> Any:
    """Row n of a part, and as many of the next as the size says."""
    at = (part[0] + n) * array[1][0] + part[2] * array[1][2]
    return array[0][at : at + size]


@internal
def _rows(array: Any, part: Any, n: int) -> Any:
    """Row n of a part and all that follows."""
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


@internal
def _normalize(x: Any, y: Any, part: Any, centre: Any, scale: Any, shift: Any, stream: bool) -> None:
    run = x[1][2]
    fold = _fold(part, x, y, y)
    k, a, b = _tile(centre, part, run, fold), _tile(scale, part, run, fold), _tile(shift, part, run, fold)
    many = 1 if stream or fold > 1 else AT_ONCE
    n = 0
    while n < part[1]:
        rows = many if n + many <= part[1] else 1
        size = min(fold, part[1] - n) * run * part[3]
        of, to = _rows(x, part, n), _rows(y, part, n)
        normalize_rows(of, x[1][0], to, y[1][0], rows, size, k, a, b, stream)
        n += rows * fold


@internal
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


@internal
def _grad_input(dy: Any, x: Any, dx: Any, mask: Any, part: Any, factors: Any, stream: bool) -> None:
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
    many = 1 if stream or fold > 1 else AT_ONCE
    n = 0
    while n < part[1]:
        rows = many if n + many <= part[1] else 1
        size = min(fold, part[1] - n) * run * part[3]
        g, of, to = _rows(dy, part, n), _rows(x, part, n), _rows(dx, part, n)
        gradient_rows(g, dy[1][0], of, x[1][0], to, dx[1][0], rows, size, k, a, b, c, stream)
        n += rows * fold


@internal
def _block(blocks: Any, i: int) -> Any:
    return blocks[i, 0], blocks[i, 1], blocks[i, 2], blocks[i, 3], blocks[i, 4]


@internal
def _shifts(x: Any, mask: Any, row: int, rows: int, first: int, last: int, shift: Any) -> None:
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
def _finish(shift: Any, s1: Any, s2: Any, count: int, first: int, last: int, mean: Any, low: Any, m2: Any) -> Any:
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
def _squares(x: Any, mask: Any, part: Any, high: Any, low: Any, m2: Any) -> None:
    """Sum the squared deviations from the mean: the second pass where the first cancelled."""
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
def _correct(s1: Any, count: int, second: Any, first: int, last: int, m2: Any) -> None:
    """Take the second pass where the first cancelled."""
    for c in range(first, last):
        if count > 0 and needs_second_pass(s1[c] * (s1[c] / count), m2[c]):
            m2[c] = second[c]


@internal
def _join(sums: Any) -> None:
    """Add the parts of each group to its first, in their order."""
    for k in range(sums.shape[0]):
        for g in range(sums.shape[1]):
            total = sums[k, g, 0]
            for p in range(1, sums.shape[2]):
                one = sums[k, g, p]
                for c in range(total.size):
                    total[c] += one[c]


@compiled
def moments(x: Any, mask: Any, blocks: Any, parts: int, count: Any, stats: Any, mail: Any) -> None:
    """Primitive 1: leaves mean, its low part and m2; count is one number a group."""
    groups, channels = stats.shape[1], stats.shape[2]
    shift, sums = numpy.empty((groups, channels)), numpy.empty((2, groups, parts, channels))
    each(_shifts_of, (x, mask, shift), groups * ((channels + _PIECE - 1) // _PIECE), mail)
    each(_sums_of, (x, mask, blocks, shift, sums), len(blocks), mail)
    _join(sums)
    again = False
    for g in range(groups):
        s1, s2 = sums[0, g, 0], sums[1, g, 0]
        again |= _finish(shift[g], s1, s2, count[g], 0, channels, stats[0, g], stats[1, g], stats[2, g])
    if again:
        second = numpy.empty((1, groups, parts, channels))
        each(_squares_of, (x, mask, blocks, stats, second), len(blocks), mail)
        _join(second)
        for g in range(groups):
            _correct(sums[0, g, 0], count[g], second[0, g, 0], 0, channels, stats[2, g])


@internal
def _shifts_of(job: Any, i: int) -> None:
    x, mask, shift = job
    channels = x[1][4]
    pieces = (channels + _PIECE - 1) // _PIECE
    g, first = i // pieces, i % pieces * _PIECE
    _shifts(x, mask, g * x[1][3], x[1][3], first, min(first + _PIECE, channels), shift[g])


@internal
def _sums_of(job: Any, i: int) -> None:
    x, mask, blocks, shift, sums = job
    block, g, p = _block(blocks, i), blocks[i, 5], blocks[i, 6]
    for channel in range(block[2], block[2] + block[3], block[4]):
        _sums(x, mask, _part(block, channel), shift[g], sums[0, g, p], sums[1, g, p])


@internal
def _squares_of(job: Any, i: int) -> None:
    x, mask, blocks, stats, sums = job
    block, g, p = _block(blocks, i), blocks[i, 5], blocks[i, 6]
    for channel in range(block[2], block[2] + block[3], block[4]):
        _squares(x, mask, _part(block, channel), stats[0, g], stats[1, g], sums[0, g, p])


@compiled
def normalize(x: Any, y: Any, blocks: Any, centre: Any, scale: Any, shift: Any, stream: bool, mail: Any) -> None:
    """Primitive 2."""
    each(_normalize_of, (x, y, blocks, centre, scale, shift, stream), len(blocks), mail)


@internal
def _normalize_of(job: Any, i: int) -> None:
    x, y, blocks, centre, scale, shift, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    for channel in range(block[2], block[2] + block[3], block[4]):
        _normalize(x, y, _part(block, channel), centre[g], scale[g], shift[g], stream)
    if stream:
        fence()


@compiled
def grad_sums(dy: Any, x: Any, mask: Any, blocks: Any, centre: Any, sums: Any, mail: Any) -> None:
    """Primitive 3: leaves the sums in the first part of each group."""
    each(_grad_sums_of, (dy, x, mask, blocks, centre, sums), len(blocks), mail)
    _join(sums)


@internal
def _grad_sums_of(job: Any, i: int) -> None:
    dy, x, mask, blocks, centre, sums = job
    block, g, p = _block(blocks, i), blocks[i, 5], blocks[i, 6]
    for channel in range(block[2], block[2] + block[3], block[4]):
        _grad_sums(dy, x, mask, _part(block, channel), centre[g], sums[0, g, p], sums[1, g, p])


@compiled
def grad_input(dy: Any, x: Any, dx: Any, mask: Any, blocks: Any, factors: Any, stream: bool, mail: Any) -> None:
    """Primitive 4; factors are centre, a, b, c."""
    each(_grad_input_of, (dy, x, dx, mask, blocks, factors, stream), len(blocks), mail)


@internal
def _grad_input_of(job: Any, i: int) -> None:
    dy, x, dx, mask, blocks, factors, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    centre, a, b, c = factors
    for channel in range(block[2], block[2] + block[3], block[4]):
        _grad_input(dy, x, dx, mask, _part(block, channel), (centre[g], a[g], b[g], c[g]), stream)
    if stream:
        fence()


@compiled
def forward(
    x: Any, y: Any, blocks: Any, count: int, epsilon: float, affine: Any, stats: Any, stream: bool, mail: Any
) -> None:
    """Primitives 1 and 2 where each block holds all rows of its group; leaves mean, low, m2 and inverse."""
    each(_forward_of, (x, y, blocks, count, epsilon, affine, stats, stream), len(blocks), mail)


@internal
def _forward_of(job: Any, i: int) -> None:
    x, y, blocks, count, epsilon, affine, stats, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    mean, low, m2 = stats[0, g], stats[1, g], stats[2, g]
    scratch = numpy.empty((4, mean.size))
    shift, s1, s2, scale = scratch[0], scratch[1], scratch[2], scratch[3]
    for first in range(block[2], block[2] + block[3], block[4]):
        part = _part(block, first)
        last = first + part[3]
        _shifts(x, None, part[0], part[1], first, last, shift)
        _sums(x, None, part, shift, s1, s2)
        if _finish(shift, s1, s2, count, first, last, mean, low, m2):
            _squares(x, None, part, mean, low, scale)
            _correct(s1, count, scale, first, last, m2)
        _scale_and_shift(stats[:, g], count, epsilon, affine, first, last, scale, shift)
        _normalize(x, y, part, mean, scale, shift, stream)
    if stream:
        fence()


@compiled
def between_forward(stats: Any, count: Any, epsilon: float, affine: Any, factors: Any) -> None:
    """What lies between primitives 1 and 2 where they cannot follow each other block by block."""
    for g in range(stats.shape[1]):
        _scale_and_shift(stats[:, g], count[g], epsilon, affine, 0, stats.shape[2], factors[0, g], factors[1, g])


@internal
def _scale_and_shift(
    stats: Any, count: int, epsilon: float, affine: Any, first: int, last: int, scale: Any, shift: Any
) -> None:
    """What lies between the primitives: 1/sqrt(var + epsilon), and what x - mean is multiplied by and gets added."""
    for c in range(first, last):
        stats[3, c] = inverse_stddev(stats[2, c], count, epsilon)
        scale[c] = affine[0, c] * stats[3, c]
        shift[c] = affine[1, c] - stats[1, c] * scale[c]


@compiled
def backward(
    dy: Any,
    x: Any,
    dx: Any,
    blocks: Any,
    divisor: Any,
    gamma: Any,
    stats: Any,
    sums: Any,
    stream: bool,
    mail: Any,
) -> None:
    """Primitives 3 and 4 where each block holds all rows of its group; leaves what `runs.backward` does."""
    each(_backward_of, (dy, x, dx, blocks, divisor, gamma, stats, sums, stream), len(blocks), mail)


@internal
def _backward_of(job: Any, i: int) -> None:
    dy, x, dx, blocks, divisor, gamma, stats, sums, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    mean, low, inverse = stats[0][g], stats[1][g], stats[2][g]
    s1, s2 = sums[0, g, 0], sums[1, g, 0]
    scratch = numpy.empty((3, mean.size))
    a, b, c = scratch[0], scratch[1], scratch[2]
    for first in range(block[2], block[2] + block[3], block[4]):
        part = _part(block, first)
        _grad_sums(dy, x, None, part, mean, s1, s2)
        _coefficients(s1, s2, low, inverse, divisor[g], gamma, first, first + part[3], a, b, c)
        _grad_input(dy, x, dx, None, part, (mean, a, b, c), stream)
    if stream:
        fence()


@compiled
def between_backward(sums: Any, low: Any, inverse: Any, divisor: Any, gamma: Any, factors: Any) -> None:
    """What lies between primitives 3 and 4 where they cannot follow each other block by block."""
    for g in range(sums.shape[1]):
        s1, s2, a, b, c = sums[0, g, 0], sums[1, g, 0], factors[0, g], factors[1, g], factors[2, g]
        _coefficients(s1, s2, low[g], inverse[g], divisor[g], gamma, 0, s1.size, a, b, c)


@internal
def _coefficients(
    s1: Any, s2: Any, low: Any, inverse: Any, n: float, gamma: Any, first: int, last: int, a: Any, b: Any, c: Any
) -> None:
    """Move s2 to both parts of the mean, and find what the second primitive takes."""
    for i in range(first, last):
        s2[i] -= low[i] * s1[i]
        a[i], b[i], c[i] = coefficients(s1[i], s2[i], n, gamma[i], inverse[i], low[i])
