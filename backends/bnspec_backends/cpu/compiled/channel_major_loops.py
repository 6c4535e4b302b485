"""Loops over one channel in long runs, or over some rows of it.

A task t is the channel ``t % channels`` of the group ``t // channels``; arrays and masks are as in `channel_major`.
"""

from typing import Any

from bnspec_backends.cpu.compiled.dtypes import add, add_product, internal, widen
from bnspec_backends.cpu.compiled.elementwise import gradient_masked, gradient_rows, normalize_rows
from bnspec_backends.cpu.compiled.near_factors import near_affine, near_gradient
from bnspec_backends.cpu.compiled.scalar_math import exact_sum, needs_second_pass, shift_of

__all__ = [
    "choose_shift", "differentiate_channel", "finish", "moments_of_channel", "normalize_channel", "sum_deviations",
    "sum_gradients", "sum_squares",
]  # fmt: skip


@internal
def _start(array: Any, t: int) -> Any:
    """Return the index of the first element of a task."""
    row_stride, channel_stride, _, rows, channels = array[1]
    return t // channels * rows * row_stride + t % channels * channel_stride


@internal
def _run(array: Any, t: int, n: int) -> Any:
    """Return row n of a task."""
    at = _start(array, t) + n * array[1][0]
    return array[0][at : at + array[1][2]]


@internal
def choose_shift(x: Any, mask: Any, t: int) -> Any:
    """Choose the number from which a channel's deviations are measured."""
    row_stride, _, run, rows, _ = x[1]
    if mask is None:
        return shift_of(x[0], _start(x, t), row_stride, run, rows, None, 0, 0)
    return shift_of(x[0], _start(x, t), row_stride, run, rows, mask[0], _start(mask, t), mask[1][0])


@internal
def sum_deviations(x: Any, mask: Any, t: int, first: int, last: int, shift: float) -> Any:
    """Sum deviations from the shift, and their squares, over some rows."""
    run = x[1][2]
    s1 = 0.0
    s2 = 0.0
    for n in range(first, last):
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
    return s1, s2


@internal
def sum_squares(x: Any, mask: Any, t: int, first: int, last: int, high: float, low: float) -> Any:
    """Sum the squared deviations from the mean over some rows: the second pass of a channel that cancelled."""
    run = x[1][2]
    m2 = 0.0
    for n in range(first, last):
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
    return m2


@internal
def finish(shift: float, s1: float, s2: float, count: int) -> Any:
    """Return mean, its low part and m2 from sums about the shift, and whether a second pass is needed."""
    offset = s1 / count
    high, low = exact_sum(shift, offset)
    m2 = s2 - s1 * offset
    return high, low, m2, needs_second_pass(s1 * offset, m2)


@internal
def moments_of_channel(x: Any, mask: Any, t: int, count: int) -> Any:
    """Return mean, its low part and m2 of a channel, from one pass, and a second one if the first cancelled."""
    if count == 0:
        return 0.0, 0.0, 0.0
    shift, rows = choose_shift(x, mask, t), x[1][3]
    s1, s2 = sum_deviations(x, mask, t, 0, rows, shift)
    high, low, m2, again = finish(shift, s1, s2, count)
    if again:
        m2 = sum_squares(x, mask, t, 0, rows, high, low)
    return high, low, m2


@internal
def normalize_channel(
    x: Any, y: Any, t: int, first: int, last: int, centre: float, scale: float, shift: float, stream: bool
) -> None:
    """Write ``(x - centre)*scale + shift`` for some rows."""
    near = near_affine(x[0], y[0], centre, scale, shift)
    for n in range(first, last):
        normalize_rows(_run(x, t, n), 0, _run(y, t, n), 0, 1, x[1][2], near, (centre, scale, shift), stream)


@internal
def sum_gradients(dy: Any, x: Any, mask: Any, t: int, first: int, last: int, centre: float) -> Any:
    """Sum dy and ``dy*(x - centre)`` over some rows."""
    run = x[1][2]
    s1 = 0.0
    s2 = 0.0
    for n in range(first, last):
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
def differentiate_channel(
    dy: Any, x: Any, dx: Any, mask: Any, t: int, first: int, last: int, centre: float, a: float, b: float, c: float,
    stream: bool,
) -> None:  # fmt: skip
    """Write ``a*dy + b*(x - centre) + c`` for some rows."""
    size = x[1][2]
    near = near_gradient(dy[0], x[0], dx[0], size * x[1][3], centre, a, b, c)
    for n in range(first, last):
        g, of, to = _run(dy, t, n), _run(x, t, n), _run(dx, t, n)
        if mask is None:
            gradient_rows(g, 0, of, 0, to, 0, 1, size, near, (centre, a, b, c), stream)
        else:
            gradient_masked(g, of, to, centre, a, b, c, _run(mask, t, n))
