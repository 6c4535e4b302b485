"""Kernels for channels in short runs, such as NHWC images and (N, C) matrices: many channels side by side.

A *block* is some rows of one group by some channels, (first row, rows, first channel, channels, step, group, part):
all channels of some rows where a row is short, all rows of some channels where it is long, then ``step`` channels at
a time. The loops are in `channel_minor_loops`.

Arrays, masks and ``control`` are as in `channel_major`. Statistics have a row for each group and a number for each
channel; sums also have a row for each part of a group, and parts are added in their order.
"""

from typing import Any

import numpy

from bnspec_backends.cpu.compiled.channel_minor_loops import (
    choose_shifts,
    correct,
    differentiate_part,
    finish,
    join,
    normalize_part,
    part_of,
    sum_deviations,
    sum_gradients,
    sum_squares,
)
from bnspec_backends.cpu.compiled.dtypes import compiled, internal
from bnspec_backends.cpu.compiled.scalar_math import coefficients, inverse_stddev
from bnspec_backends.cpu.compiled.simd import fence
from bnspec_backends.cpu.compiled.thread_team import each

__all__ = [
    "backward", "backward_frozen", "between_backward", "between_forward", "forward", "grad_input", "grad_sums",
    "moments", "normalize",
]  # fmt: skip

#: Channels whose shifts are chosen at once.
_PIECE = 256


@internal
def _block(blocks: Any, i: int) -> Any:
    return blocks[i, 0], blocks[i, 1], blocks[i, 2], blocks[i, 3], blocks[i, 4]


@compiled
def moments(x: Any, mask: Any, blocks: Any, parts: int, count: Any, stats: Any, control: Any) -> None:
    """Write mean, its low part and m2 to ``stats``; ``count`` is one number a group."""
    groups, channels = stats.shape[1], stats.shape[2]
    shift, sums = numpy.empty((groups, channels)), numpy.empty((2, groups, parts, channels))
    each(_shifts_of, (x, mask, shift), groups * ((channels + _PIECE - 1) // _PIECE), control)
    each(_sums_of, (x, mask, blocks, shift, sums), len(blocks), control)
    join(sums)
    again = False
    for g in range(groups):
        s1, s2 = sums[0, g, 0], sums[1, g, 0]
        again |= finish(shift[g], s1, s2, count[g], 0, channels, stats[0, g], stats[1, g], stats[2, g])
    if again:
        second = numpy.empty((1, groups, parts, channels))
        each(_squares_of, (x, mask, blocks, stats, second), len(blocks), control)
        join(second)
        for g in range(groups):
            correct(sums[0, g, 0], count[g], second[0, g, 0], 0, channels, stats[2, g])


@internal
def _shifts_of(job: Any, i: int) -> None:
    x, mask, shift = job
    channels = x[1][4]
    pieces = (channels + _PIECE - 1) // _PIECE
    g, first = i // pieces, i % pieces * _PIECE
    choose_shifts(x, mask, g * x[1][3], x[1][3], first, min(first + _PIECE, channels), shift[g])


@internal
def _sums_of(job: Any, i: int) -> None:
    x, mask, blocks, shift, sums = job
    block, g, p = _block(blocks, i), blocks[i, 5], blocks[i, 6]
    for channel in range(block[2], block[2] + block[3], block[4]):
        sum_deviations(x, mask, part_of(block, channel), shift[g], sums[0, g, p], sums[1, g, p])


@internal
def _squares_of(job: Any, i: int) -> None:
    x, mask, blocks, stats, sums = job
    block, g, p = _block(blocks, i), blocks[i, 5], blocks[i, 6]
    for channel in range(block[2], block[2] + block[3], block[4]):
        sum_squares(x, mask, part_of(block, channel), stats[0, g], stats[1, g], sums[0, g, p])


@compiled
def normalize(x: Any, y: Any, blocks: Any, centre: Any, scale: Any, shift: Any, stream: bool, control: Any) -> None:
    """Write ``(x - centre)*scale + shift`` to y."""
    each(_normalize_of, (x, y, blocks, centre, scale, shift, stream), len(blocks), control)


@internal
def _normalize_of(job: Any, i: int) -> None:
    x, y, blocks, centre, scale, shift, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    for channel in range(block[2], block[2] + block[3], block[4]):
        normalize_part(x, y, part_of(block, channel), centre[g], scale[g], shift[g], stream)
    if stream:
        fence()


@compiled
def grad_sums(dy: Any, x: Any, mask: Any, blocks: Any, centre: Any, sums: Any, control: Any) -> None:
    """Sum dy and ``dy*(x - centre)`` into the first part of each group."""
    each(_grad_sums_of, (dy, x, mask, blocks, centre, sums), len(blocks), control)
    join(sums)


@internal
def _grad_sums_of(job: Any, i: int) -> None:
    dy, x, mask, blocks, centre, sums = job
    block, g, p = _block(blocks, i), blocks[i, 5], blocks[i, 6]
    for channel in range(block[2], block[2] + block[3], block[4]):
        sum_gradients(dy, x, mask, part_of(block, channel), centre[g], sums[0, g, p], sums[1, g, p])


@compiled
def grad_input(dy: Any, x: Any, dx: Any, mask: Any, blocks: Any, factors: Any, stream: bool, control: Any) -> None:
    """Write ``a*dy + b*(x - centre) + c`` to dx; the factors are centre, a, b, c."""
    each(_grad_input_of, (dy, x, dx, mask, blocks, factors, stream), len(blocks), control)


@internal
def _grad_input_of(job: Any, i: int) -> None:
    dy, x, dx, mask, blocks, factors, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    centre, a, b, c = factors
    for channel in range(block[2], block[2] + block[3], block[4]):
        differentiate_part(dy, x, dx, mask, part_of(block, channel), (centre[g], a[g], b[g], c[g]), stream)
    if stream:
        fence()


@compiled
def forward(
    x: Any, y: Any, blocks: Any, count: int, epsilon: float, affine: Any, stats: Any, stream: bool, control: Any
) -> None:
    """Measure and normalize blocks that hold all rows of their group; write mean, low, m2 and inverse to ``stats``."""
    each(_forward_of, (x, y, blocks, count, epsilon, affine, stats, stream), len(blocks), control)


@internal
def _forward_of(job: Any, i: int) -> None:
    x, y, blocks, count, epsilon, affine, stats, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    mean, low, m2 = stats[0, g], stats[1, g], stats[2, g]
    scratch = numpy.empty((4, mean.size))
    shift, s1, s2, scale = scratch[0], scratch[1], scratch[2], scratch[3]
    for first in range(block[2], block[2] + block[3], block[4]):
        part = part_of(block, first)
        last = first + part[3]
        choose_shifts(x, None, part[0], part[1], first, last, shift)
        sum_deviations(x, None, part, shift, s1, s2)
        if finish(shift, s1, s2, count, first, last, mean, low, m2):
            sum_squares(x, None, part, mean, low, scale)
            correct(s1, count, scale, first, last, m2)
        _scale_and_shift(stats[:, g], count, epsilon, affine, first, last, scale, shift)
        normalize_part(x, y, part, mean, scale, shift, stream)
    if stream:
        fence()


@compiled
def between_forward(stats: Any, count: Any, epsilon: float, affine: Any, factors: Any) -> None:
    """Turn moments into scale and shift, where the two passes cannot follow each other block by block."""
    for g in range(stats.shape[1]):
        _scale_and_shift(stats[:, g], count[g], epsilon, affine, 0, stats.shape[2], factors[0, g], factors[1, g])


@internal
def _scale_and_shift(
    stats: Any, count: int, epsilon: float, affine: Any, first: int, last: int, scale: Any, shift: Any
) -> None:
    """Compute 1/sqrt(var + epsilon), the factor of x - mean, and the term added to it."""
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
    control: Any,
) -> None:
    """Sum and differentiate blocks that hold all rows of their group; write the sums of `channel_major.backward`."""
    each(_backward_of, (dy, x, dx, blocks, divisor, gamma, stats, sums, stream), len(blocks), control)


@internal
def _backward_of(job: Any, i: int) -> None:
    dy, x, dx, blocks, divisor, gamma, stats, sums, stream = job
    block, g = _block(blocks, i), blocks[i, 5]
    mean, low, inverse = stats[0][g], stats[1][g], stats[2][g]
    s1, s2 = sums[0, g], sums[1, g]
    scratch = numpy.empty((3, mean.size))
    a, b, c = scratch[0], scratch[1], scratch[2]
    for first in range(block[2], block[2] + block[3], block[4]):
        part = part_of(block, first)
        sum_gradients(dy, x, None, part, mean, s1, s2)
        _coefficients(s1, s2, low, inverse, divisor[g], gamma, first, first + part[3], a, b, c)
        differentiate_part(dy, x, dx, None, part, (mean, a, b, c), stream)
    if stream:
        fence()


@compiled
def between_backward(sums: Any, low: Any, inverse: Any, divisor: Any, gamma: Any, factors: Any) -> None:
    """Turn gradient sums into a, b and c, where the two passes cannot follow each other block by block."""
    for g in range(sums.shape[1]):
        s1, s2, a, b, c = sums[0, g], sums[1, g], factors[0, g], factors[1, g], factors[2, g]
        _coefficients(s1, s2, low[g], inverse[g], divisor[g], gamma, 0, s1.size, a, b, c)


@internal
def _coefficients(
    s1: Any, s2: Any, low: Any, inverse: Any, n: float, gamma: Any, first: int, last: int, a: Any, b: Any, c: Any
) -> None:
    """Correct s2 for the low part of the mean, and compute a, b and c of the second pass."""
    for i in range(first, last):
        s2[i] -= low[i] * s1[i]
        a[i], b[i], c[i] = coefficients(s1[i], s2[i], n, gamma[i], inverse[i], low[i])


@compiled
def backward_frozen(
    dy: Any, x: Any, dx: Any, blocks: Any, centre: Any, scale: Any, sums: Any, stream: bool, control: Any
) -> None:
    """Do what `grad_sums` does, and write ``scale*dy`` to dx: statistics are constants, so no sum is waited for."""
    still = numpy.zeros(centre.shape[1])
    each(_backward_frozen_of, (dy, x, dx, blocks, centre, scale, still, sums, stream), len(blocks), control)
    join(sums)


@internal
def _backward_frozen_of(job: Any, i: int) -> None:
    dy, x, dx, blocks, centre, scale, still, sums, stream = job
    block, g, p = _block(blocks, i), blocks[i, 5], blocks[i, 6]
    for channel in range(block[2], block[2] + block[3], block[4]):
        part = part_of(block, channel)
        sum_gradients(dy, x, None, part, centre[g], sums[0, g, p], sums[1, g, p])
        normalize_part(dy, dx, part, still, scale[g], still, stream)
    if stream:
        fence()
