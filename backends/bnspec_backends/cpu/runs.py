"""Kernels for channels in long runs, such as NCHW images: one channel of one group at a time.

The second pass over a channel finds it in cache where it fits, so the fused kernels `forward` and `backward`
read each array from memory once. Their arithmetic is that of the four primitives, in the same order.

An array is a pair of its memory and (row_stride, channel_stride, run, rows, channels) of its `Layout`; a mask is
such a pair, or None. A task t is the channel ``t % channels`` of the group ``t // channels``; a block is some
tasks (first, last). Arrays of statistics are flat, one number a task. With ``stream`` results are written past the
cache. ``mail`` is that of `gang.each`.
"""

from typing import Any

from bnspec_backends.cpu.arithmetic import coefficients, exact_sum, inverse_stddev, needs_second_pass, shift_of
from bnspec_backends.cpu.gang import each
from bnspec_backends.cpu.lines import fence
from bnspec_backends.cpu.rows import gradient_masked, gradient_rows, normalize_rows
from bnspec_backends.cpu.storage import add, add_product, compiled, internal, widen

__all__ = ["backward", "forward", "grad_input", "grad_sums", "moments", "normalize"]


@internal
def _start(array: Any, t: int) -> Any:
    """Where the first element of a task is."""
    row_stride, channel_stride, _, rows, channels = array[1]
    return t // channels * rows * row_stride + t % channels * channel_stride


@internal
def _run(array: Any, t: int, n: int) -> Any:
    """Row n of a task."""
    at = _start(array, t) + n * array[1][0]
    return array[0][at : at + array[1][2]]


@internal
def _moments(x: Any, mask: Any, t: int, count: int) -> Any:
    """Mean in two parts and m2 of one channel: one pass around a value of it, a second where that cancelled."""
    row_stride, _, run, rows, _ = x[1]
    if count == 0:
        return 0.0, 0.0, 0.0
    if mask is None:
        shift = shift_of(x[0], _start(x, t), row_stride, run, rows, None, 0, 0)
    else:
        shift = shift_of(x[0], _start(x, t), row_stride, run, rows, mask[0], _start(mask, t), mask[1][0])
    s1 = 0.0
    s2 = 0.0
    for n in range(rows):
        part = _run(x, t, n)
        a = 0.0
        b = 0.0
        if mask is None:
            for i in range(run):
                d = widen(part[i]) - shift
                a = add(a, d)
                b = add_product(b, d, d)
        else:
            keep = _run(mask, t, n)
            for i in range(run):
                d = widen(part[i]) - shift if keep[i] else 0.0
                a = add(a, d)
                b = add_product(b, d, d)
        s1 += a
        s2 += b
    offset = s1 / count
    high, low = exact_sum(shift, offset)
    m2 = s2 - s1 * offset
    if needs_second_pass(s1 * offset, m2):
        m2 = 0.0
        for n in range(rows):
            part = _run(x, t, n)
            b = 0.0
            if mask is None:
                for i in range(run):
                    d = (widen(part[i]) - high) - low
                    b = add_product(b, d, d)
            else:
                keep = _run(mask, t, n)
                for i in range(run):
                    d = (widen(part[i]) - high) - low if keep[i] else 0.0
                    b = add_product(b, d, d)
            m2 += b
    return high, low, m2


@internal
def _normalize(x: Any, y: Any, t: int, centre: float, scale: float, shift: float, stream: bool) -> None:
    for n in range(x[1][3]):
        normalize_rows(_run(x, t, n), 0, _run(y, t, n), 0, 1, x[1][2], centre, scale, shift, stream)


@internal
def _grad_sums(dy: Any, x: Any, mask: Any, t: int, centre: float) -> Any:
    run = x[1][2]
    s1 = 0.0
    s2 = 0.0
    for n in range(x[1][3]):
        values, cotangents = _run(x, t, n), _run(dy, t, n)
        a = 0.0
        b = 0.0
        if mask is None:
            for i in range(run):
                g = widen(cotangents[i])
                a = add(a, g)
                b = add_product(b, g, widen(values[i]) - centre)
        else:
            keep = _run(mask, t, n)
            for i in range(run):
                g = widen(cotangents[i]) if keep[i] else 0.0
                d = widen(values[i]) - centre if keep[i] else 0.0
                a = add(a, g)
                b = add_product(b, g, d)
        s1 += a
        s2 += b
    return s1, s2


@internal
def _grad_input(
    dy: Any, x: Any, dx: Any, mask: Any, t: int, centre: float, a: float, b: float, c: float, stream: bool
) -> None:
    size = x[1][2]
    if mask is not None:
        for n in range(x[1][3]):
            gradient_masked(_run(dy, t, n), _run(x, t, n), _run(dx, t, n), centre, a, b, c, _run(mask, t, n))
        return
    for n in range(x[1][3]):
        g, of, to = _run(dy, t, n), _run(x, t, n), _run(dx, t, n)
        gradient_rows(g, 0, of, 0, to, 0, 1, size, centre, a, b, c, stream)


@compiled
def moments(x: Any, mask: Any, blocks: Any, count: Any, stats: Any, mail: Any) -> None:
    """Primitive 1: leaves mean, its low part and m2; count is one number a group."""
    each(_moments_of, (x, mask, blocks, count, stats), len(blocks), mail)


@internal
def _moments_of(job: Any, i: int) -> None:
    x, mask, blocks, count, stats = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        stats[0, t], stats[1, t], stats[2, t] = _moments(x, mask, t, count[t // x[1][4]])


@compiled
def normalize(x: Any, y: Any, blocks: Any, centre: Any, scale: Any, shift: Any, stream: bool, mail: Any) -> None:
    """Primitive 2."""
    each(_normalize_of, (x, y, blocks, centre, scale, shift, stream), len(blocks), mail)


@internal
def _normalize_of(job: Any, i: int) -> None:
    x, y, blocks, centre, scale, shift, stream = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        _normalize(x, y, t, centre[t], scale[t], shift[t], stream)
    if stream:
        fence()


@compiled
def grad_sums(dy: Any, x: Any, mask: Any, blocks: Any, centre: Any, sums: Any, mail: Any) -> None:
    """Primitive 3."""
    each(_grad_sums_of, (dy, x, mask, blocks, centre, sums), len(blocks), mail)


@internal
def _grad_sums_of(job: Any, i: int) -> None:
    dy, x, mask, blocks, centre, sums = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        sums[0, t], sums[1, t] = _grad_sums(dy, x, mask, t, centre[t])


@compiled
def grad_input(dy: Any, x: Any, dx: Any, mask: Any, blocks: Any, factors: Any, stream: bool, mail: Any) -> None:
    """Primitive 4; factors are centre, a, b, c."""
    each(_grad_input_of, (dy, x, dx, mask, blocks, factors, stream), len(blocks), mail)


@internal
def _grad_input_of(job: Any, i: int) -> None:
    dy, x, dx, mask, blocks, factors, stream = job
    centre, a, b, c = factors
    for t in range(blocks[i, 0], blocks[i, 1]):
        _grad_input(dy, x, dx, mask, t, centre[t], a[t], b[t], c[t], stream)
    if stream:
        fence()


@compiled
def forward(
    x: Any, y: Any, blocks: Any, count: int, epsilon: float, affine: Any, stats: Any, stream: bool, mail: Any
) -> None:
    """Primitives 1 and 2 of each channel in turn, with what lies between them; leaves mean, low, m2 and inverse."""
    each(_forward_of, (x, y, blocks, count, epsilon, affine, stats, stream), len(blocks), mail)


@internal
def _forward_of(job: Any, i: int) -> None:
    x, y, blocks, count, epsilon, affine, stats, stream = job
    for t in range(blocks[i, 0], blocks[i, 1]):
        mean, low, m2 = _moments(x, None, t, count)
        inverse = inverse_stddev(m2, count, epsilon)
        stats[0, t], stats[1, t], stats[2, t], stats[3, t] = mean, low, m2, inverse
        scale = affine[0, t % x[1][4]] * inverse
        _normalize(x, y, t, mean, scale, affine[1, t % x[1][4]] - low * scale, stream)
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
    mail: Any,
) -> None:
    """Primitives 3 and 4 of each channel in turn, by mean, low and inverse.

    Leaves the sum of g, and that of g*(x - mean) about both parts of the mean; divisor is one number a group.
    """
    each(_backward_of, (dy, x, dx, blocks, divisor, gamma, stats, sums, stream), len(blocks), mail)


@internal
def _backward_of(job: Any, i: int) -> None:
    dy, x, dx, blocks, divisor, gamma, stats, sums, stream = job
    mean, low, inverse = stats
    channels = x[1][4]
    for t in range(blocks[i, 0], blocks[i, 1]):
        s1, s2 = _grad_sums(dy, x, None, t, mean[t])
        s2 -= low[t] * s1
        sums[0, t], sums[1, t] = s1, s2
        a, b, c = coefficients(s1, s2, divisor[t // channels], gamma[t % channels], inverse[t], low[t])
        _grad_input(dy, x, dx, None, t, mean[t], a, b, c, stream)
    if stream:
        fence()
