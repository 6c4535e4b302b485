"""Kernels for channels in long runs, such as NCHW images: one channel of one group at a time.

The second pass over a channel finds it in cache where it fits, so the fused kernels `forward` and `backward`
read each array from memory once. Their arithmetic is that of the four primitives, in the same order.

An array is a pair of its memory and (row_stride, channel_stride, run, rows, channels) of its `Layout`; a mask is
such a pair, or None. A task t is the channel ``t % channels`` of the group ``t // channels``. A block is (first
task, last, first row, last, part): some tasks, or some rows of one task where there are too few tasks for the threads.
Statistics are one number a task, sums one number for each part of a task. With ``stream`` results are written past the
cache. ``control`` is the control block of `thread_team.each`. The loops are in `channel_major_loops`.
"""

from typing import Any

import numpy

from bnspec_backends.cpu.compiled.channel_major_loops import (
    choose_shift,
    differentiate_channel,
    finish,
    moments_of_channel,
    normalize_channel,
    sum_deviations,
    sum_gradients,
    sum_squares,
)
from bnspec_backends.cpu.compiled.dtypes import compiled, internal
from bnspec_backends.cpu.compiled.scalar_math import coefficients, inverse_stddev
from bnspec_backends.cpu.compiled.simd import fence
from bnspec_backends.cpu.compiled.thread_team import each

__all__ = ["backward", "backward_frozen", "forward", "grad_input", "grad_sums", "moments", "normalize"]


@compiled
def moments(x: Any, mask: Any, blocks: Any, parts: int, count: Any, stats: Any, control: Any) -> None:
    """Write mean, its low part and m2 to ``stats``; ``count`` is one number a group."""
    if parts == 1:
        each(_moments_of, (x, mask, blocks, count, stats), len(blocks), control)
        return
    tasks, channels = stats.shape[1], x[1][4]
    shift, sums, second = numpy.empty(tasks), numpy.empty((2, tasks, parts)), numpy.empty((1, tasks, parts))
    again = False
    for t in range(tasks):
        shift[t] = choose_shift(x, mask, t)
    each(_sums_of, (x, mask, blocks, shift, sums), len(blocks), control)
    _join(sums)
    for t in range(tasks):
        if count[t // channels] == 0:
            stats[0, t], stats[1, t], stats[2, t] = 0.0, 0.0, 0.0
            continue
        found = finish(shift[t], sums[0, t, 0], sums[1, t, 0], count[t // channels])
        stats[0, t], stats[1, t], stats[2, t] = found[0], found[1], found[2]
        again = again or found[3]
    if again:
        each(_squares_of, (x, mask, blocks, stats, second), len(blocks), control)
        _join(second)
        for t in range(tasks):
            n = count[t // channels]
            if n > 0 and finish(shift[t], sums[0, t, 0], sums[1, t, 0], n)[3]:
                stats[2, t] = second[0, t, 0]


@internal
def _join(sums: Any) -> None:
    """Add the parts of each task to its first, in their order."""
    for k in range(sums.shape[0]):
        for t in range(sums.shape[1]):
            for p in range(1, sums.shape[2]):
                sums[k, t, 0] += sums[k, t, p]


@internal
def _moments_of(job: Any, i: int) -> None:
    x, mask, blocks, count, stats = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        stats[0, t], stats[1, t], stats[2, t] = moments_of_channel(x, mask, t, count[t // x[1][4]])


@internal
def _sums_of(job: Any, i: int) -> None:
    x, mask, blocks, shift, sums = job
    t, p = blocks[i, 0], blocks[i, 4]
    sums[0, t, p], sums[1, t, p] = sum_deviations(x, mask, t, blocks[i, 2], blocks[i, 3], shift[t])


@internal
def _squares_of(job: Any, i: int) -> None:
    x, mask, blocks, stats, sums = job
    t, p = blocks[i, 0], blocks[i, 4]
    sums[0, t, p] = sum_squares(x, mask, t, blocks[i, 2], blocks[i, 3], stats[0, t], stats[1, t])


@compiled
def normalize(x: Any, y: Any, blocks: Any, centre: Any, scale: Any, shift: Any, stream: bool, control: Any) -> None:
    """Write ``(x - centre)*scale + shift`` to y."""
    each(_normalize_of, (x, y, blocks, centre, scale, shift, stream), len(blocks), control)


@internal
def _normalize_of(job: Any, i: int) -> None:
    x, y, blocks, centre, scale, shift, stream = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        normalize_channel(x, y, t, blocks[i, 2], blocks[i, 3], centre[t], scale[t], shift[t], stream)
    if stream:
        fence()


@compiled
def grad_sums(dy: Any, x: Any, mask: Any, blocks: Any, centre: Any, sums: Any, control: Any) -> None:
    """Sum dy and ``dy*(x - centre)`` into the first part of each task."""
    each(_grad_sums_of, (dy, x, mask, blocks, centre, sums), len(blocks), control)
    _join(sums)


@internal
def _grad_sums_of(job: Any, i: int) -> None:
    dy, x, mask, blocks, centre, sums = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        p = blocks[i, 4]
        sums[0, t, p], sums[1, t, p] = sum_gradients(dy, x, mask, t, blocks[i, 2], blocks[i, 3], centre[t])


@compiled
def grad_input(dy: Any, x: Any, dx: Any, mask: Any, blocks: Any, factors: Any, stream: bool, control: Any) -> None:
    """Write ``a*dy + b*(x - centre) + c`` to dx; the factors are centre, a, b, c."""
    each(_grad_input_of, (dy, x, dx, mask, blocks, factors, stream), len(blocks), control)


@internal
def _grad_input_of(job: Any, i: int) -> None:
    dy, x, dx, mask, blocks, factors, stream = job
    centre, a, b, c = factors
    for t in range(blocks[i, 0], blocks[i, 1]):
        differentiate_channel(dy, x, dx, mask, t, blocks[i, 2], blocks[i, 3], centre[t], a[t], b[t], c[t], stream)
    if stream:
        fence()


@compiled
def forward(
    x: Any, y: Any, blocks: Any, count: int, epsilon: float, affine: Any, stats: Any, stream: bool, control: Any
) -> None:
    """Measure and normalize one channel after the other; write mean, low, m2 and inverse to ``stats``."""
    each(_forward_of, (x, y, blocks, count, epsilon, affine, stats, stream), len(blocks), control)


@internal
def _forward_of(job: Any, i: int) -> None:
    x, y, blocks, count, epsilon, affine, stats, stream = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        mean, low, m2 = moments_of_channel(x, None, t, count)
        inverse = inverse_stddev(m2, count, epsilon)
        stats[0, t], stats[1, t], stats[2, t], stats[3, t] = mean, low, m2, inverse
        scale = affine[0, t % x[1][4]] * inverse
        normalize_channel(x, y, t, 0, x[1][3], mean, scale, affine[1, t % x[1][4]] - low * scale, stream)
    if stream:
        fence()


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
    """Sum and differentiate one channel after the other; ``stats`` is mean, low and inverse.

    Writes to ``sums`` the sum of g, and the sum of g*(x - mean) about both parts of the mean; ``divisor`` is one number
    a group.
    """
    each(_backward_of, (dy, x, dx, blocks, divisor, gamma, stats, sums, stream), len(blocks), control)


@internal
def _backward_of(job: Any, i: int) -> None:
    dy, x, dx, blocks, divisor, gamma, stats, sums, stream = job
    mean, low, inverse = stats
    channels = x[1][4]
    for t in range(blocks[i, 0], blocks[i, 1]):
        s1, s2 = sum_gradients(dy, x, None, t, 0, x[1][3], mean[t])
        s2 -= low[t] * s1
        sums[0, t, 0], sums[1, t, 0] = s1, s2
        a, b, c = coefficients(s1, s2, divisor[t // channels], gamma[t % channels], inverse[t], low[t])
        differentiate_channel(dy, x, dx, None, t, 0, x[1][3], mean[t], a, b, c, stream)
    if stream:
        fence()


@compiled
def backward_frozen(
    dy: Any, x: Any, dx: Any, blocks: Any, centre: Any, scale: Any, sums: Any, stream: bool, control: Any
) -> None:
    """Do what `grad_sums` does, and write ``scale*dy`` to dx: statistics are constants, so no sum is waited for."""
    each(_backward_frozen_of, (dy, x, dx, blocks, centre, scale, sums, stream), len(blocks), control)
    _join(sums)


@internal
def _backward_frozen_of(job: Any, i: int) -> None:
    dy, x, dx, blocks, centre, scale, sums, stream = job
    first, last, p = blocks[i, 2], blocks[i, 3], blocks[i, 4]
    for t in range(blocks[i, 0], blocks[i, 1]):
        sums[0, t, p], sums[1, t, p] = sum_gradients(dy, x, None, t, first, last, centre[t])
        normalize_channel(dy, dx, t, first, last, 0.0, scale[t], 0.0, stream)
    if stream:
        fence()
