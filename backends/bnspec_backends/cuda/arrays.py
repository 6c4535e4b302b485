"""CuPy arrays as the kernels take them: where they are, how they lie, and new ones for results."""

from typing import Any, NamedTuple

import cupy
import numpy

from bnspec import Groups
from bnspec_backends.cuda.counters import counters
from bnspec_backends.layout import Layout, dense, find_layout

__all__ = ["DTYPES", "Source", "factor", "new_like", "parameter", "read", "read_along", "spread_mask"]

#: Dtypes that kernels know, by name: the type in C++, and the number by which `Call` names it.
DTYPES = {"float16": ("float16", 1), "bfloat16": ("bfloat16", 2), "float32": ("float", 3), "float64": ("double", 4)}


class Source(NamedTuple):
    """Array of x's shape as a kernel reads or writes it; it is kept until the launch."""

    array: Any
    layout: Layout

    @property
    def address(self) -> int:
        """Address of the first element."""
        return int(self.array.data.ptr)

    @property
    def type_name(self) -> str:
        """Type of an element in C++."""
        return DTYPES[self.array.dtype.name][0]


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
    shape = (layout.groups, layout.channels)
    v = v if v.shape == shape else cupy.broadcast_to(v, shape)
    return cupy.ascontiguousarray(v, numpy.float64)


def parameter(name: str, v: Any) -> dict[str, Any]:
    """Return the members of a call for an array of shape (C,) of any floating dtype; none for None."""
    if v is None:
        return {}
    return {
        name: v,
        f"{name}_stride": v.strides[0] // v.itemsize,
        f"{name}_dtype": DTYPES[v.dtype.name][1],
    }


def _layout(v: Any, groups: Groups) -> Layout | None:
    """Return the layout of an array, None where it must be copied first."""
    if v.data.ptr % v.itemsize:
        return None
    return find_layout(v.shape, v.strides, v.itemsize, groups.axis, groups.number)


def _back(layout: Layout) -> list[int]:
    """Return the axes that undo the order of a layout."""
    return sorted(range(len(layout.order)), key=layout.order.__getitem__)
