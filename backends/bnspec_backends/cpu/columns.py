"""Kernels for channels in short runs, such as NHWC images and (N, C) matrices: many channels side by side.

A row of memory holds all channels, so sums go down the columns. A *block* is some rows of one group by some
channels: all channels of some rows where a row is short, all rows of some channels where it is long. Narrow
rows that follow each other without a gap are folded into one, so that the inner loop is long.

``block`` is (first row, rows, first channel, channels); ``where`` is (row_stride, channel_stride, run) of an
array's `Layout`. Sums of a block go to one row of an array of partial sums, which are added in order of blocks.
"""

from typing import Any

import numpy

from bnspec_backends.cpu.arithmetic import coefficients, exact_sum, inverse_stddev, needs_second_pass, shift_of
from bnspec_backends.cpu.storage import add, add_product, affine, compiled, narrow, widen

__all__ = [
    "backward",
    "correct",
    "finish",
    "forward",
    "grad_input",
    "grad_sums",
    "normalize",
    "shifts",
    "squares",
    "sums",
]

#: Rows are folded until they have this many columns.
_WIDE = 512


@compiled
def _fold(where: Any, block: Any, stride: int) -> Any:
    """How many rows the inner loop takes at once."""
    period = where[2] * block[3]
    if stride != period or where[0] != period:
        return 1
    return max(1, min(_WIDE // period, block[1]))


@compiled
def _tile(values: Any, first: int, run: int, channels: int, fold: int) -> Any:
    """Repeat one number a channel to one a column."""
    tile = numpy.empty(fold * run * channels)
    j = 0
    for _ in range(fold):
        for c in range(channels):
            for _ in range(run):
                tile[j] = values[first + c]
                j += 1
    return tile


@compiled
def _collect(columns: Any, run: int, channels: int, fold: int, out: Any, first: int) -> None:
    """Add the columns of each channel."""
    for c in range(channels):
        out[first + c] = 0.0
    j = 0
    for _ in range(fold):
        for c in range(channels):
            total = 0.0
            for _ in range(run):
                total += columns[j]
                j += 1
            out[first + c] += total


@compiled
def _sums(x: Any, where: Any, block: Any, mask: Any, mask_stride: int, shift: Any, s1: Any, s2: Any) -> None:
    """Sum deviations from the shift and their squares."""
    stride, run = where[0], where[2]
    row, rows, channel, channels = block
    fold = _fold(where, block, where[0] if mask is None else mask_stride)
    width = fold * run * channels
    k = _tile(shift, channel, run, channels, fold)
    a = numpy.zeros(width)
    b = numpy.zeros(width)
    n = 0
    while n < rows:
        taken = min(fold, rows - n)
        size = width if taken == fold else taken * run * channels
        at = (row + n) * stride + channel * where[1]
        part = x[at : at + size]
        if mask is None:
            for j in range(size):
                d = widen(part[j]) - k[j]
                a[j] = add(a[j], d)
                b[j] = add_product(b[j], d, d)
        else:
            at = (row + n) * mask_stride + channel * where[2]
            keep = mask[at : at + size]
            for j in range(size):
                d = widen(part[j]) - k[j] if keep[j] else 0.0
                a[j] = add(a[j], d)
                b[j] = add_product(b[j], d, d)
        n += taken
    _collect(a, run, channels, fold, s1, channel)
    _collect(b, run, channels, fold, s2, channel)


@compiled
def squares(x: Any, where: Any, block: Any, mask: Any, mask_stride: int, high: Any, low: Any, m2: Any) -> None:
    """Sum the squared deviations from the mean: the second pass of channels whose first one cancelled."""
    stride, run = where[0], where[2]
    row, rows, channel, channels = block
    k = _tile(high, channel, run, channels, 1)
    rest = _tile(low, channel, run, channels, 1)
    width = run * channels
    b = numpy.zeros(width)
    for n in range(row, row + rows):
        part = x[n * stride + channel * where[1] : n * stride + channel * where[1] + width]
        if mask is None:
            for j in range(width):
                d = (widen(part[j]) - k[j]) - rest[j]
                b[j] = add_product(b[j], d, d)
        else:
            keep = mask[n * mask_stride + channel * where[2] : n * mask_stride + channel * where[2] + width]
            for j in range(width):
                d = (widen(part[j]) - k[j]) - rest[j] if keep[j] else 0.0
                b[j] = add_product(b[j], d, d)
    _collect(b, run, channels, 1, m2, channel)


@compiled
def shifts(
    x: Any, where: Any, row: int, rows: int, first: int, last: int, mask: Any, mask_stride: int, shift: Any
) -> None:
    """Choose the shift of channels first .. last - 1 of one group."""
    for c in range(first, last):
        shift[c] = shift_of(
            x,
            row * where[0] + c * where[1],
            where[0],
            where[2],
            rows,
            mask,
            row * mask_stride + c * where[2],
            mask_stride,
        )


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
def correct(s1: Any, count: int, second: Any, m2: Any) -> None:
    """Take the second pass where the first cancelled."""
    for c in range(m2.size):
        if count > 0 and needs_second_pass(s1[c] * (s1[c] / count), m2[c]):
            m2[c] = second[c]


@compiled
def _normalize(x: Any, where: Any, block: Any, y: Any, y_stride: int, centre: Any, scale: Any, shift: Any) -> None:
    stride, run = where[0], where[2]
    row, rows, channel, channels = block
    fold = _fold(where, block, y_stride)
    width = fold * run * channels
    k = _tile(centre, channel, run, channels, fold)
    a = _tile(scale, channel, run, channels, fold)
    b = _tile(shift, channel, run, channels, fold)
    n = 0
    while n < rows:
        taken = min(fold, rows - n)
        size = width if taken == fold else taken * run * channels
        at = (row + n) * stride + channel * where[1]
        source = x[at : at + size]
        at = (row + n) * y_stride + channel * run
        target = y[at : at + size]
        for j in range(size):
            target[j] = narrow(affine(widen(source[j]) - k[j], a[j], b[j]), y)
        n += taken


@compiled
def _grad_sums(
    dy: Any, dy_stride: int, x: Any, where: Any, block: Any, mask: Any, mask_stride: int, centre: Any, s1: Any, s2: Any
) -> None:
    stride, run = where[0], where[2]
    row, rows, channel, channels = block
    fold = _fold(where, block, dy_stride)
    if mask is not None and mask_stride != dy_stride:
        fold = 1
    width = fold * run * channels
    k = _tile(centre, channel, run, channels, fold)
    a = numpy.zeros(width)
    b = numpy.zeros(width)
    n = 0
    while n < rows:
        taken = min(fold, rows - n)
        size = width if taken == fold else taken * run * channels
        at = (row + n) * stride + channel * where[1]
        values = x[at : at + size]
        at = (row + n) * dy_stride + channel * run
        cotangents = dy[at : at + size]
        if mask is None:
            for j in range(size):
                g = widen(cotangents[j])
                a[j] = add(a[j], g)
                b[j] = add_product(b[j], g, widen(values[j]) - k[j])
        else:
            at = (row + n) * mask_stride + channel * run
            keep = mask[at : at + size]
            for j in range(size):
                g = widen(cotangents[j]) if keep[j] else 0.0
                d = widen(values[j]) - k[j] if keep[j] else 0.0
                a[j] = add(a[j], g)
                b[j] = add_product(b[j], g, d)
        n += taken
    _collect(a, run, channels, fold, s1, channel)
    _collect(b, run, channels, fold, s2, channel)


@compiled
def _grad_input(
    dy: Any,
    dy_stride: int,
    x: Any,
    where: Any,
    block: Any,
    dx: Any,
    dx_stride: int,
    mask: Any,
    mask_stride: int,
    centre: Any,
    a: Any,
    b: Any,
    c: Any,
) -> None:
    stride, run = where[0], where[2]
    row, rows, channel, channels = block
    fold = _fold(where, block, dy_stride)
    if dx_stride != dy_stride or (mask is not None and mask_stride != dy_stride):
        fold = 1
    width = fold * run * channels
    k = _tile(centre, channel, run, channels, fold)
    ta = _tile(a, channel, run, channels, fold)
    tb = _tile(b, channel, run, channels, fold)
    tc = _tile(c, channel, run, channels, fold)
    n = 0
    while n < rows:
        taken = min(fold, rows - n)
        size = width if taken == fold else taken * run * channels
        at = (row + n) * stride + channel * where[1]
        values = x[at : at + size]
        at = (row + n) * dy_stride + channel * run
        cotangents = dy[at : at + size]
        at = (row + n) * dx_stride + channel * run
        target = dx[at : at + size]
        if mask is None:
            for j in range(size):
                statistics = affine(widen(values[j]) - k[j], tb[j], tc[j])
                target[j] = narrow(affine(widen(cotangents[j]), ta[j], statistics), dx)
        else:
            at = (row + n) * mask_stride + channel * run
            keep = mask[at : at + size]
            for j in range(size):
                statistics = affine(widen(values[j]) - k[j], tb[j], tc[j]) if keep[j] else 0.0
                target[j] = narrow(affine(widen(cotangents[j]), ta[j], statistics), dx)
        n += taken


@compiled
def _forward(
    x: Any,
    where: Any,
    block: Any,
    y: Any,
    y_stride: int,
    count: int,
    epsilon: float,
    gamma: Any,
    beta: Any,
    work: Any,
    mean: Any,
    low: Any,
    m2: Any,
    inverse: Any,
) -> None:
    row, rows, first, channels = block
    last = first + channels
    shift, s1, s2, scale = work[0], work[1], work[2], work[3]
    shifts(x, where, row, rows, first, last, None, 0, shift)
    _sums(x, where, block, None, 0, shift, s1, s2)
    if finish(shift, s1, s2, count, first, last, mean, low, m2):
        second = work[4]
        squares(x, where, block, None, 0, mean, low, second)
        for c in range(first, last):
            offset = s1[c] / count
            if needs_second_pass(s1[c] * offset, m2[c]):
                m2[c] = second[c]
    for c in range(first, last):
        inverse[c] = inverse_stddev(m2[c], count, epsilon)
        scale[c] = gamma[c] * inverse[c]
        shift[c] = beta[c] - low[c] * scale[c]
    _normalize(x, where, block, y, y_stride, mean, scale, shift)


@compiled
def _backward(
    dy: Any,
    dy_stride: int,
    x: Any,
    where: Any,
    block: Any,
    dx: Any,
    dx_stride: int,
    divisor: float,
    gamma: Any,
    mean: Any,
    low: Any,
    inverse: Any,
    work: Any,
    s1: Any,
    s2: Any,
) -> None:
    first, channels = block[2], block[3]
    a, b, c = work[0], work[1], work[2]
    _grad_sums(dy, dy_stride, x, where, block, None, 0, mean, s1, s2)
    for i in range(first, first + channels):
        s2[i] -= low[i] * s1[i]
        a[i], b[i], c[i] = coefficients(s1[i], s2[i], divisor, gamma[i], inverse[i], low[i])
    _grad_input(dy, dy_stride, x, where, block, dx, dx_stride, None, 0, mean, a, b, c)


@compiled
def sums(x: Any, where: Any, block: Any, mask: Any, mask_stride: int, shift: Any, s1: Any, s2: Any) -> None:
    """Primitive 1 but for `finish`: sum deviations from the shift, and their squares."""
    for c in range(block[2], block[2] + block[3], block[4]):
        part = (block[0], block[1], c, min(block[4], block[2] + block[3] - c))
        _sums(x, where, part, mask, mask_stride, shift, s1, s2)


@compiled
def normalize(x: Any, where: Any, block: Any, y: Any, y_stride: int, centre: Any, scale: Any, shift: Any) -> None:
    """Primitive 2."""
    for c in range(block[2], block[2] + block[3], block[4]):
        part = (block[0], block[1], c, min(block[4], block[2] + block[3] - c))
        _normalize(x, where, part, y, y_stride, centre, scale, shift)


@compiled
def grad_sums(
    dy: Any, dy_stride: int, x: Any, where: Any, block: Any, mask: Any, mask_stride: int, centre: Any, s1: Any, s2: Any
) -> None:
    """Primitive 3."""
    for c in range(block[2], block[2] + block[3], block[4]):
        part = (block[0], block[1], c, min(block[4], block[2] + block[3] - c))
        _grad_sums(dy, dy_stride, x, where, part, mask, mask_stride, centre, s1, s2)


@compiled
def grad_input(
    dy: Any,
    dy_stride: int,
    x: Any,
    where: Any,
    block: Any,
    dx: Any,
    dx_stride: int,
    mask: Any,
    mask_stride: int,
    centre: Any,
    a: Any,
    b: Any,
    c: Any,
) -> None:
    """Primitive 4."""
    for i in range(block[2], block[2] + block[3], block[4]):
        part = (block[0], block[1], i, min(block[4], block[2] + block[3] - i))
        _grad_input(dy, dy_stride, x, where, part, dx, dx_stride, mask, mask_stride, centre, a, b, c)


@compiled
def forward(
    x: Any,
    where: Any,
    block: Any,
    y: Any,
    y_stride: int,
    count: int,
    epsilon: float,
    gamma: Any,
    beta: Any,
    mean: Any,
    low: Any,
    m2: Any,
    inverse: Any,
) -> None:
    """Primitives 1 and 2 of a block that holds all rows of its group, with what lies between them."""
    work = numpy.empty((5, mean.size))
    for c in range(block[2], block[2] + block[3], block[4]):
        part = (block[0], block[1], c, min(block[4], block[2] + block[3] - c))
        _forward(x, where, part, y, y_stride, count, epsilon, gamma, beta, work, mean, low, m2, inverse)


@compiled
def backward(
    dy: Any,
    dy_stride: int,
    x: Any,
    where: Any,
    block: Any,
    dx: Any,
    dx_stride: int,
    divisor: float,
    gamma: Any,
    mean: Any,
    low: Any,
    inverse: Any,
    s1: Any,
    s2: Any,
) -> None:
    """Primitives 3 and 4 of a block that holds all rows of its group; s2 is left as in `runs.backward`."""
    work = numpy.empty((3, mean.size))
    for c in range(block[2], block[2] + block[3], block[4]):
        part = (block[0], block[1], c, min(block[4], block[2] + block[3] - c))
        _backward(dy, dy_stride, x, where, part, dx, dx_stride, divisor, gamma, mean, low, inverse, work, s1, s2)
