"""Kernels for channels in long runs, such as NCHW images: one channel of one group at a time.

The second pass over a channel finds it in cache where it fits, so the fused kernels `forward` and `backward`
read each array from memory once. Their arithmetic is that of the four primitives, in the same order.

``where`` is (row_stride, channel_stride, run, rows, channels) of an array's `Layout`; a task t is the channel
``t % channels`` of the group ``t // channels``. Arrays of statistics are flat, one number a task.
"""

from typing import Any

from bnspec_backends.cpu.arithmetic import coefficients, exact_sum, inverse_stddev, needs_second_pass, shift_of
from bnspec_backends.cpu.storage import add, add_product, affine, compiled, narrow, widen

__all__ = ["backward", "forward", "grad_input", "grad_sums", "moments", "normalize"]


@compiled
def _start(t: int, where: Any) -> Any:
    """Position of the first element of a task."""
    group, channel = t // where[4], t % where[4]
    return group * where[3] * where[0] + channel * where[1]


@compiled
def _moments(x: Any, at: int, where: Any, mask: Any, mask_at: int, mask_where: Any, count: int) -> Any:
    """Mean in two parts and m2 of one channel: one pass around a value of it, a second where that cancelled."""
    row_stride, run, rows = where[0], where[2], where[3]
    if count == 0:
        return 0.0, 0.0, 0.0
    shift = shift_of(x, at, row_stride, run, rows, mask, mask_at, mask_where[0])
    s1 = 0.0
    s2 = 0.0
    for n in range(rows):
        part = x[at + n * row_stride : at + n * row_stride + run]
        a = 0.0
        b = 0.0
        if mask is None:
            for i in range(run):
                d = widen(part[i]) - shift
                a = add(a, d)
                b = add_product(b, d, d)
        else:
            keep = mask[mask_at + n * mask_where[0] : mask_at + n * mask_where[0] + run]
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
            part = x[at + n * row_stride : at + n * row_stride + run]
            b = 0.0
            if mask is None:
                for i in range(run):
                    d = (widen(part[i]) - high) - low
                    b = add_product(b, d, d)
            else:
                keep = mask[mask_at + n * mask_where[0] : mask_at + n * mask_where[0] + run]
                for i in range(run):
                    d = (widen(part[i]) - high) - low if keep[i] else 0.0
                    b = add_product(b, d, d)
            m2 += b
    return high, low, m2


@compiled
def _normalize(
    x: Any, at: int, where: Any, y: Any, y_at: int, y_where: Any, centre: Any, scale: Any, shift: Any
) -> None:
    run = where[2]
    for n in range(where[3]):
        source = x[at + n * where[0] : at + n * where[0] + run]
        target = y[y_at + n * y_where[0] : y_at + n * y_where[0] + run]
        for i in range(run):
            target[i] = narrow(affine(widen(source[i]) - centre, scale, shift), y)


@compiled
def _grad_sums(
    dy: Any,
    dy_at: int,
    dy_where: Any,
    x: Any,
    at: int,
    where: Any,
    centre: Any,
    mask: Any,
    mask_at: int,
    mask_where: Any,
) -> Any:
    run = where[2]
    s1 = 0.0
    s2 = 0.0
    for n in range(where[3]):
        values = x[at + n * where[0] : at + n * where[0] + run]
        cotangents = dy[dy_at + n * dy_where[0] : dy_at + n * dy_where[0] + run]
        a = 0.0
        b = 0.0
        if mask is None:
            for i in range(run):
                g = widen(cotangents[i])
                a = add(a, g)
                b = add_product(b, g, widen(values[i]) - centre)
        else:
            keep = mask[mask_at + n * mask_where[0] : mask_at + n * mask_where[0] + run]
            for i in range(run):
                g = widen(cotangents[i]) if keep[i] else 0.0
                d = widen(values[i]) - centre if keep[i] else 0.0
                a = add(a, g)
                b = add_product(b, g, d)
        s1 += a
        s2 += b
    return s1, s2


@compiled
def _grad_input(
    dy: Any,
    dy_at: int,
    dy_where: Any,
    x: Any,
    at: int,
    where: Any,
    dx: Any,
    dx_at: int,
    dx_where: Any,
    centre: Any,
    a: Any,
    b: Any,
    c: Any,
    mask: Any,
    mask_at: int,
    mask_where: Any,
) -> None:
    run = where[2]
    for n in range(where[3]):
        values = x[at + n * where[0] : at + n * where[0] + run]
        cotangents = dy[dy_at + n * dy_where[0] : dy_at + n * dy_where[0] + run]
        target = dx[dx_at + n * dx_where[0] : dx_at + n * dx_where[0] + run]
        if mask is None:
            for i in range(run):
                statistics = affine(widen(values[i]) - centre, b, c)
                target[i] = narrow(affine(widen(cotangents[i]), a, statistics), dx)
        else:
            keep = mask[mask_at + n * mask_where[0] : mask_at + n * mask_where[0] + run]
            for i in range(run):
                statistics = affine(widen(values[i]) - centre, b, c) if keep[i] else 0.0
                target[i] = narrow(affine(widen(cotangents[i]), a, statistics), dx)


@compiled
def moments(
    x: Any, where: Any, mask: Any, mask_where: Any, first: int, last: int, count: Any, mean: Any, low: Any, m2: Any
) -> None:
    """Primitive 1 for the tasks first .. last - 1; count is one number a group."""
    for t in range(first, last):
        mean[t], low[t], m2[t] = _moments(
            x, _start(t, where), where, mask, _start(t, mask_where), mask_where, count[t // where[4]]
        )


@compiled
def normalize(
    x: Any, where: Any, y: Any, y_where: Any, first: int, last: int, centre: Any, scale: Any, shift: Any
) -> None:
    """Primitive 2."""
    for t in range(first, last):
        _normalize(x, _start(t, where), where, y, _start(t, y_where), y_where, centre[t], scale[t], shift[t])


@compiled
def grad_sums(
    dy: Any,
    dy_where: Any,
    x: Any,
    where: Any,
    mask: Any,
    mask_where: Any,
    first: int,
    last: int,
    centre: Any,
    s1: Any,
    s2: Any,
) -> None:
    """Primitive 3."""
    for t in range(first, last):
        s1[t], s2[t] = _grad_sums(
            dy,
            _start(t, dy_where),
            dy_where,
            x,
            _start(t, where),
            where,
            centre[t],
            mask,
            _start(t, mask_where),
            mask_where,
        )


@compiled
def grad_input(
    dy: Any,
    dy_where: Any,
    x: Any,
    where: Any,
    dx: Any,
    dx_where: Any,
    mask: Any,
    mask_where: Any,
    first: int,
    last: int,
    centre: Any,
    a: Any,
    b: Any,
    c: Any,
) -> None:
    """Primitive 4."""
    for t in range(first, last):
        _grad_input(
            dy,
            _start(t, dy_where),
            dy_where,
            x,
            _start(t, where),
            where,
            dx,
            _start(t, dx_where),
            dx_where,
            centre[t],
            a[t],
            b[t],
            c[t],
            mask,
            _start(t, mask_where),
            mask_where,
        )


@compiled
def forward(
    x: Any,
    where: Any,
    y: Any,
    y_where: Any,
    first: int,
    last: int,
    count: int,
    epsilon: float,
    gamma: Any,
    beta: Any,
    mean: Any,
    low: Any,
    m2: Any,
    inverse: Any,
) -> None:
    """Primitives 1 and 2 of each channel in turn, with what lies between them."""
    for t in range(first, last):
        at = _start(t, where)
        mean[t], low[t], m2[t] = _moments(x, at, where, None, 0, where, count)
        inverse[t] = inverse_stddev(m2[t], count, epsilon)
        scale = gamma[t % where[4]] * inverse[t]
        shift = beta[t % where[4]] - low[t] * scale
        _normalize(x, at, where, y, _start(t, y_where), y_where, mean[t], scale, shift)


@compiled
def backward(
    dy: Any,
    dy_where: Any,
    x: Any,
    where: Any,
    dx: Any,
    dx_where: Any,
    first: int,
    last: int,
    divisor: Any,
    gamma: Any,
    mean: Any,
    low: Any,
    inverse: Any,
    s1: Any,
    s2: Any,
) -> None:
    """Primitives 3 and 4 of each channel in turn; s2 is left as ``sum dy*(x - mean)`` about both parts of the mean."""
    for t in range(first, last):
        at, dy_at = _start(t, where), _start(t, dy_where)
        s1[t], s2[t] = _grad_sums(dy, dy_at, dy_where, x, at, where, mean[t], None, 0, where)
        s2[t] -= low[t] * s1[t]
        a, b, c = coefficients(s1[t], s2[t], divisor[t // where[4]], gamma[t % where[4]], inverse[t], low[t])
        _grad_input(
            dy, dy_at, dy_where, x, at, where, dx, _start(t, dx_where), dx_where, mean[t], a, b, c, None, 0, where
        )
