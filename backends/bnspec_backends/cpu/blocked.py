"""Kernels in NumPy alone, block by block, so that temporary arrays stay in cache.

Where numba is missing. The plain formula writes and reads a dozen arrays of x's size; here each block of x
becomes float64 in a scratch array of some hundred kilobytes and is dealt with there.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from bnspec import Kernels
from bnspec._sums import two_sum
from bnspec._types import Groups, Moments
from bnspec_backends.cpu.arrays import Source, factor, new_like, read, read_along, returned
from bnspec_backends.cpu.plan import CANCELLATION
from bnspec_backends.cpu.resources import resources
from bnspec_backends.layout import Layout

__all__ = ["BlockedKernels"]

#: Elements of a block: as float64 they and a second array like them fit a second-level cache.
BLOCK = 1 << 15

_Slices = tuple[slice, slice, slice]


class BlockedKernels(Kernels):
    """Kernels for NumPy arrays, block by block; masks and arrays without elements go the specification's way."""

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        if mask is not None or not x.size:
            return super().moments(x, groups, mask)
        source = read(x, groups)
        layout = source.layout
        values = _cube(source)
        shape = (layout.groups, layout.channels)
        first = values.reshape(layout.groups, layout.rows, layout.channels, layout.run)[:, 0, :, 0]
        shift = first.astype(numpy.float64)

        def deviations(g: int, part: _Slices, scratch: Any, about: Any) -> Any:
            d = _into(scratch, values[part])
            return numpy.subtract(d, about[g, part[1], None], out=d)

        def both(g: int, part: _Slices, scratch: Any) -> tuple[Any, Any]:
            d = deviations(g, part, scratch, shift)
            s1 = _down(d)
            return s1, _down(numpy.multiply(d, d, out=d))

        s1, s2 = _sums(layout, both)
        offset = s1 / layout.elements
        mean, low = two_sum(shift, offset)
        m2 = s2 - s1 * offset
        again = ~(s1 * offset <= CANCELLATION * m2)
        if again.any():

            def squares(g: int, part: _Slices, scratch: Any) -> tuple[Any, Any]:
                d = deviations(g, part, scratch, mean)
                d -= low[g, part[1], None]
                return _down(numpy.multiply(d, d, out=d)), 0.0

            m2 = numpy.where(again, _sums(layout, squares)[0], m2)
        return Moments(numpy.full(shape[:1], layout.elements), mean, low, m2)

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        if not x.size:
            return super().normalize(x, centre, scale, shift, groups)
        source = read(x, groups)
        layout, values = source.layout, _cube(source)
        y, line = new_like(x, layout)
        target = line.reshape(values.shape)
        k, a, b = (factor(v, layout)[:, :, None] for v in (centre, scale, shift))

        def write(g: int, part: _Slices, scratch: Any) -> None:
            d = _into(scratch, values[part])
            d -= k[g, part[1]]
            d *= a[g, part[1]]
            d += b[g, part[1]]
            target[part] = d

        _each(layout, write)
        return returned(y, x)

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        if mask is not None or not x.size:
            return super().grad_sums(dy, x, centre, groups, mask)
        source = read(x, groups)
        layout, values = source.layout, _cube(source)
        cotangents = _cube(read_along(dy, x, layout, groups))
        k = factor(centre, layout)[:, :, None]

        def both(g: int, part: _Slices, scratch: Any) -> tuple[Any, Any]:
            d = _into(scratch, values[part])
            d -= k[g, part[1]]
            d *= cotangents[part]
            return _down(cotangents[part].astype(numpy.float64)), _down(d)

        return _sums(layout, both)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        if mask is not None or not x.size:
            return super().grad_input(dy, x, centre, a, b, c, groups, mask)
        source = read(x, groups)
        layout, values = source.layout, _cube(source)
        cotangents = _cube(read_along(dy, x, layout, groups))
        dx, line = new_like(x, layout)
        target = line.reshape(values.shape)
        k, ta, tb, tc = (factor(v, layout)[:, :, None] for v in (centre, a, b, c))

        def write(g: int, part: _Slices, scratch: Any) -> None:
            d = _into(scratch, values[part])
            d -= k[g, part[1]]
            d *= tb[g, part[1]]
            d += tc[g, part[1]]
            d += cotangents[part] * ta[g, part[1]]
            target[part] = d

        _each(layout, write)
        return returned(dx, x)


def _cube(source: Source) -> Any:
    """View an array as (rows of all groups, channels, run)."""
    layout = source.layout
    shape = (layout.groups * layout.rows, layout.channels, layout.run)
    if layout.is_dense:
        return source.line.reshape(shape)
    item = source.array.itemsize
    strides = (layout.row_stride * item, layout.channel_stride * item, item)
    return numpy.lib.stride_tricks.as_strided(source.array, shape, strides, writeable=False)


def _into(scratch: Any, values: Any) -> Any:
    """Copy a block into the scratch array as float64."""
    d = scratch[: values.size].reshape(values.shape)
    numpy.copyto(d, values, casting="unsafe")
    return d


def _down(d: Any) -> Any:
    """Sum a block per channel: runs first, which NumPy sums in pairs, then rows."""
    along = d[:, :, 0] if d.shape[2] == 1 else numpy.add.reduce(d, axis=2)
    return numpy.add.reduce(along, axis=0)


def _blocks(layout: Layout) -> Iterator[tuple[int, _Slices]]:
    """Cut each group into blocks, by shape alone: first along the rows, then the channels, then the run."""
    run = min(layout.run, BLOCK)
    channels = max(1, min(layout.channels, BLOCK // run))
    rows = max(1, min(layout.rows, BLOCK // (run * channels)))
    for g in range(layout.groups):
        start, end = g * layout.rows, (g + 1) * layout.rows
        for c in range(0, layout.channels, channels):
            for n in range(start, end, rows):
                for i in range(0, layout.run, run):
                    part = slice(n, min(n + rows, end)), slice(c, min(c + channels, layout.channels)), slice(i, i + run)
                    yield g, part


def _each(layout: Layout, block: Callable[[int, _Slices, Any], Any]) -> list[tuple[int, _Slices, Any]]:
    """Call a function with each block and a scratch array; return the blocks with what it returned."""
    parts = list(_blocks(layout))
    found: list[Any] = [None] * len(parts)
    own = threading.local()

    def task(i: int) -> None:
        if not hasattr(own, "scratch"):
            own.scratch = numpy.empty(BLOCK)
        found[i] = (*parts[i], block(*parts[i], own.scratch))

    resources.run(task, len(parts), layout.size)
    return found


def _sums(layout: Layout, block: Callable[[int, _Slices, Any], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Add two sums per channel over the blocks, in their order."""
    s1, s2 = numpy.zeros((2, layout.groups, layout.channels))
    for g, part, (a, b) in _each(layout, block):
        s1[g, part[1]] += a
        s2[g, part[1]] += b
    return s1, s2
