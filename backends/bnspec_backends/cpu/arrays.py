"""NumPy arrays as the kernels take them: those that are read, those that are written, masks and factors."""

from typing import Any, NamedTuple

import numpy

from bnspec._errors import refusal
from bnspec._types import Groups
from bnspec_backends.cpu.buffer_pool import SMALLEST
from bnspec_backends.cpu.resources import resources
from bnspec_backends.layout import Layout, dense, find_layout

__all__ = ["Source", "counts", "factor", "new_like", "plain", "read", "read_along", "returned", "spread_mask"]


_ORDERS = [tuple(range(n)) for n in range(65)]  # the axes in order, for every rank NumPy has


class Source(NamedTuple):
    """Array that a kernel reads, or a copy of it if it cannot be read in place."""

    array: Any
    layout: Layout

    @property
    def line(self) -> Any:
        """Memory from the first element to the last, read-only: else each kernel is compiled for both kinds."""
        layout, x = self.layout, self.array
        if not layout.is_dense:
            return numpy.lib.stride_tricks.as_strided(x, (layout.span,), (x.itemsize,), writeable=False)
        line = x.reshape(-1) if layout.order == _ORDERS[x.ndim] else x.transpose(layout.order).reshape(-1)
        line.setflags(write=False)
        return line


def read(x: Any, groups: Groups) -> Source:
    """Return an array with its layout; copy it, and count the copy, if no kernel takes it as it lies in memory."""
    layout = None
    if x.dtype.isnative and x.flags.aligned:
        layout = find_layout(x.shape, x.strides, x.itemsize, groups.axis, groups.number)
    if layout is None:
        x = _copy(x)
        layout = find_layout(x.shape, x.strides, x.itemsize, groups.axis, groups.number)
        assert layout is not None, "a contiguous array has a layout"
    return Source(x, layout)


def read_along(v: Any, x: Any, layout: Layout, groups: Groups) -> Source:
    """Return an array of x's shape with x's order of elements; one of another dtype is copied as float64."""
    if v.shape != x.shape:
        raise _misfit("an array", v.shape, "x", x.shape)
    own = None
    if v.dtype != x.dtype:
        v = v.astype(numpy.float64)
        resources.counters.copies += 1
    if v.dtype.isnative and v.flags.aligned:
        own = find_layout(v.shape, v.strides, v.itemsize, groups.axis, groups.number)
    if own is not None and own.order == layout.order and own[2:5] == layout[2:5] and own.by_runs == layout.by_runs:
        return Source(v, own)
    back = numpy.argsort(layout.order)
    return Source(_copy(v.transpose(layout.order)).transpose(back), dense(layout))


def new_like(x: Any, layout: Layout) -> tuple[Any, Any]:
    """Return a new array of x's shape whose axes lie in memory as x's do, and its elements as one line."""
    order = layout.order
    dtype = x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
    if order == _ORDERS[len(order)] and x.nbytes < SMALLEST:
        y = numpy.empty(x.shape, dtype)
        return y, y.reshape(-1)
    line = resources.pool.empty(layout.size * dtype.itemsize).view(dtype)
    y = line.reshape([x.shape[a] for a in order])
    if order != _ORDERS[len(order)]:
        y = y.transpose(numpy.argsort(order))
    return y, line


def returned(y: Any, x: Any) -> Any:
    """Return a result in x's byte order; kernels write in the processor's byte order."""
    return y if x.dtype.isnative else y.byteswap(inplace=True).view(x.dtype)


def counts(mask: Any, x: Any, groups: Groups, layout: Layout) -> Any:
    """Return the number of elements that count, for each group."""
    narrow = tuple(mask.shape[a] if a == groups.axis else n for a, n in enumerate(x.shape))
    return numpy.broadcast_to(mask, narrow).reshape(layout.groups, -1).sum(axis=1)


def spread_mask(mask: Any, x: Any, layout: Layout) -> Any:
    """Return a mask as one line of bytes, read-only and dense in the order of a layout."""
    if (
        mask.dtype != bool
        or mask.ndim != x.ndim
        or any(m not in (1, n) for m, n in zip(mask.shape, x.shape, strict=True))
    ):
        raise _misfit(f"a mask of {mask.dtype}", mask.shape, "booleans for x", x.shape)
    full = numpy.broadcast_to(mask, x.shape).transpose(layout.order)
    line = numpy.ascontiguousarray(full).reshape(-1).view(numpy.uint8)
    line.setflags(write=False)
    return line


def factor(v: Any, layout: Layout) -> Any:
    """Return a number per group and channel as float64, without gaps."""
    shape = (layout.groups, layout.channels)
    return plain(v if v.shape == shape else numpy.broadcast_to(v, shape))


def plain(v: Any, dtype: Any = numpy.float64) -> Any:
    """Return an array that every kernel is compiled for: of this dtype, without gaps, aligned and writable."""
    return v if v.dtype == dtype and v.flags.carray else numpy.array(v, dtype=dtype, order="C", copy=True, subok=False)


def _misfit(what: str, shape: tuple[int, ...], of: str, wanted: tuple[int, ...]) -> Exception:
    """Return the refusal of shapes that do not match, for direct callers: compiled code checks no index."""
    return refusal(
        ValueError,
        "BN-SHAPE-6",
        got=f"{what} of shape {tuple(shape)}",
        expected=f"{of} of shape {tuple(wanted)}",
        do="Call the public functions, which check what they are given.",
    )


def _copy(x: Any) -> Any:
    resources.counters.copies += 1
    return numpy.array(x, dtype=x.dtype.newbyteorder("="), order="C", copy=True)
