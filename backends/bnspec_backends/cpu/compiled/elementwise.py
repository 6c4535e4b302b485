"""Elementwise passes along neighbours in memory, for channels in long runs and for channels side by side.

A factor is one number, where the whole row is a run of one channel, or an array with one number for each element.
"""

from typing import Any

from numba import types

from bnspec_backends.cpu.compiled.dtypes import affine, inlined, instructions, narrow, widen
from bnspec_backends.cpu.compiled.simd import affine_lines, gradient_lines, head, whole

__all__ = ["AT_ONCE", "gradient_masked", "gradient_rows", "normalize_rows"]

#: Rows computed at once where the factors are arrays, so that a factor is loaded once for all of them. Results that are
#: written past the cache are limited by memory, which takes one row after the other best.
AT_ONCE = 4

_affine_one, _affine_some, _affine_past = affine_lines(1), affine_lines(AT_ONCE), affine_lines(1, past_cache=True)
_affine_ends = affine_lines(1, lanes=1)
_affine_amend, _affine_amend_ends = affine_lines(1, amend=True), affine_lines(1, lanes=1, amend=True)
_gradient_one, _gradient_some, _gradient_past = (
    gradient_lines(1), gradient_lines(AT_ONCE), gradient_lines(1, past_cache=True),
)  # fmt: skip
_gradient_ends = gradient_lines(1, lanes=1)
_gradient_amend, _gradient_amend_ends = gradient_lines(1, amend=True), gradient_lines(1, lanes=1, amend=True)


@inlined
def normalize_rows(
    x: Any, x_stride: int, y: Any, y_stride: int, rows: int, size: int, near: Any, factors: Any, past_cache: bool
) -> None:
    """Write ``(x - centre)*scale + shift`` for one row, or, not past the cache, for `AT_ONCE` rows a stride apart.

    The factors are centre, scale, shift in float64; ``near`` is what `near_factors` makes of them.
    """
    centre, scale, shift = near
    start = min(head(y), size) if past_cache else 0
    stop = whole(y, start, size, past_cache)
    if past_cache:
        lost = _affine_past(y, x, start, stop, 0, 0, centre, scale, shift)
    elif rows == 1:
        lost = _affine_one(y, x, start, stop, 0, 0, centre, scale, shift)
    else:
        lost = _affine_some(y, x, start, stop, y_stride, x_stride, centre, scale, shift)
    if start > 0 or stop < size:
        for n in range(rows):
            to, of = y[n * y_stride :], x[n * x_stride :]
            lost |= _affine_ends(to, of, 0, start, 0, 0, centre, scale, shift)
            lost |= _affine_ends(to, of, stop, size, 0, 0, centre, scale, shift)
    if lost:
        stop = whole(y, 0, size, False)
        for n in range(rows):
            to, of = y[n * y_stride :], x[n * x_stride :]
            _affine_amend(to, of, 0, stop, 0, 0, factors[0], factors[1], factors[2])
            _affine_amend_ends(to, of, stop, size, 0, 0, factors[0], factors[1], factors[2])


@inlined
def gradient_rows(
    dy: Any, dy_stride: int, x: Any, x_stride: int, dx: Any, dx_stride: int, rows: int, size: int, near: Any,
    factors: Any, past_cache: bool,
) -> None:  # fmt: skip
    """Write ``a*dy + (b*(x - centre) + c)`` for the rows of `normalize_rows`; the factors are centre, a, b, c."""
    centre, a, b, c = near
    start = min(head(dx), size) if past_cache else 0
    stop = whole(dx, start, size, past_cache)
    if past_cache:
        lost = _gradient_past(dx, dy, x, start, stop, 0, 0, 0, centre, a, b, c)
    elif rows == 1:
        lost = _gradient_one(dx, dy, x, start, stop, 0, 0, 0, centre, a, b, c)
    else:
        lost = _gradient_some(dx, dy, x, start, stop, dx_stride, dy_stride, x_stride, centre, a, b, c)
    if start > 0 or stop < size:
        for n in range(rows):
            to, with_, of = dx[n * dx_stride :], dy[n * dy_stride :], x[n * x_stride :]
            lost |= _gradient_ends(to, with_, of, 0, start, 0, 0, 0, centre, a, b, c)
            lost |= _gradient_ends(to, with_, of, stop, size, 0, 0, 0, centre, a, b, c)
    if lost:
        stop = whole(dx, 0, size, False)
        for n in range(rows):
            to, with_, of = dx[n * dx_stride :], dy[n * dy_stride :], x[n * x_stride :]
            _gradient_amend(to, with_, of, 0, stop, 0, 0, 0, factors[0], factors[1], factors[2], factors[3])
            _gradient_amend_ends(to, with_, of, stop, size, 0, 0, 0, factors[0], factors[1], factors[2], factors[3])


@instructions  # type: ignore[untyped-decorator]
def _of(context: Any, factor: Any, i: Any) -> Any:
    """Return the factor of element i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if signature.args[0] == types.float64:
            return arguments[0]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]]))

    return types.float64(factor, types.int64), generate


@inlined
def gradient_masked(dy: Any, x: Any, target: Any, centre: Any, a: Any, b: Any, c: Any, keep: Any) -> None:
    """Write ``a*dy + m*(b*(x - centre) + c)`` for one row; m is ``keep`` as 0 and 1."""
    for i in range(target.size):
        statistics = affine(widen(x[i]) - _of(centre, i), _of(b, i), _of(c, i)) if keep[i] else 0.0
        target[i] = narrow(affine(widen(dy[i]), _of(a, i), statistics), target)
