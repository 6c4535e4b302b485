"""CuPy arrays as the kernels take them: where they are, how they lie, and new ones for results."""

from typing import Any, NamedTuple

import cupy
import numpy

from bnspec import Groups
from bnspec_backends.cuda.counters import counters
from bnspec_backends.layout import Layout, dense, find_layout

__all__ = ["KINDS", "Kind", "Source", "dense_float64", "factor", "new_like", "read", "read_along", "spread_mask"]


_ORDERS = [tuple(range(n)) for n in range(65)]  # the axes in order, for every rank


class Kind(NamedTuple):
    """Dtype that kernels know."""

    type_name: str  # of an element in C++
    number: int  # by which `Call` names it
    size: int  # bytes of an element


#: What kernels know, by NumPy's dtype: bfloat16 where ml_dtypes is installed, as CuPy has it only then.
KINDS: dict[Any, Kind] = {
    numpy.dtype(numpy.float16): Kind("float16", 1, 2),
    numpy.dtype(numpy.float32): Kind("float", 3, 4),
    numpy.dtype(numpy.float64): Kind("double", 4, 8),
}
try:
    import ml_dtypes
except ImportError:
    pass
else:
    KINDS[numpy.dtype(ml_dtypes.bfloat16)] = Kind("bfloat16", 2, 2)


class Source(NamedTuple):
    """Array of x's shape as a kernel reads or writes it."""

    array: Any
    layout: Layout


def read(x: Any, groups: Groups) -> Source:
    """Return an array with its layout; copy it, and count the copy, if no kernel takes it as it lies in memory."""
    layout = _layout(x, groups)
    if layout is None:
        counters.copies += 1
        x = cupy.array(x, order="C", copy=True)
        layout = find_layout(x.shape, x.strides, x.itemsize, groups.axis, groups.number)
        assert layout is not None, "a contiguous array has a layout"
    return Source(x, layout)


def read_along(v: Any, layout: Layout, groups: Groups) -> Source:
    """Return an array of x's shape with x's order of elements, copied into it where its own is another."""
    own = _layout(v, groups)
    if own is not None and own.order == layout.order and own[2:5] == layout[2:5]:
        return Source(v, own)
    counters.copies += 1
    line = cupy.array(v.transpose(layout.order), order="C", copy=True)
    return Source(line.transpose(_back(layout)), dense(layout))


def new_like(x: Any, layout: Layout) -> Source:
    """Return a new array of x's shape and dtype whose axes lie in memory as x's do."""
    if layout.order == _ORDERS[x.ndim]:
        return Source(cupy.empty(x.shape, x.dtype), dense(layout))
    line = cupy.empty([x.shape[a] for a in layout.order], x.dtype)
    return Source(line.transpose(_back(layout)), dense(layout))


def spread_mask(mask: Any, x: Any, layout: Layout, groups: Groups) -> tuple[Any, int, int]:
    """Return a mask as bytes in the order of a layout, with its strides from row to row and channel to channel."""
    own = mask.shape[groups.axis]
    shape = tuple(own if a == groups.axis else n for a, n in enumerate(x.shape))
    line = cupy.ascontiguousarray(cupy.broadcast_to(mask, shape).transpose(layout.order))
    if own == 1:
        return line, layout.run, 0
    return line, layout.run * layout.channels, layout.run


def factor(v: Any, layout: Layout) -> Any:
    """Return a number per group and channel as float64, without gaps."""
    return dense_float64(v, (layout.groups, layout.channels))


def dense_float64(v: Any, shape: tuple[int, ...]) -> Any:
    """Return an array in another shape as float64, without gaps: itself if it is so already."""
    if v.shape == shape and v.dtype == numpy.float64 and v.flags.c_contiguous:
        return v
    v = v if v.shape == shape else cupy.broadcast_to(v, shape)
    return cupy.ascontiguousarray(v, numpy.float64)


def _layout(v: Any, groups: Groups) -> Layout | None:
    """Return the layout of an array, None where it must be copied first."""
    if v.data.ptr % v.itemsize:
        return None
    return find_layout(v.shape, v.strides, v.itemsize, groups.axis, groups.number)


def _back(layout: Layout) -> list[int]:
    """Return the axes that undo the order of a layout."""
    return sorted(range(len(layout.order)), key=layout.order.__getitem__)
