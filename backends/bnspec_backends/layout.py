"""Layout of an array in memory, as the kernels see it: rows, channels, and runs of neighbours.

An array of any rank is four numbers to a kernel. Element (row, channel, i) lies at

    row*row_stride + channel*channel_stride + i,    i in 0 .. run - 1

where a run is the elements of a channel that lie side by side: H*W elements of an NCHW array, one of an NHWC array.
Normalization does not depend on the order of the elements within a group, so the axes are taken in the order of their
strides. A transposed array, torch's channels_last format and most slices are thus read in place. An array without such
a layout is copied once, and the copy is counted.
"""

import functools
import itertools
import math
from typing import NamedTuple

from bnspec._errors import refusal

__all__ = ["Layout", "dense", "find_layout"]

#: Runs at least this long are summed one by one; shorter runs side by side, as columns of a row.
LONG_RUN = 192

#: The same for arrays of so few elements that strides cost nothing, since the array is in cache.
LONG_RUN_IN_CACHE, IN_CACHE = 64, 1 << 20


class Layout(NamedTuple):
    """Layout of an array's elements."""

    order: tuple[int, ...]  # the axes, from the one of the largest stride to that of the smallest
    groups: int
    rows: int  # per group
    channels: int
    run: int
    row_stride: int  # in elements, as the others
    channel_stride: int
    span: int  # from the first element to the last, both included

    @property
    def by_runs(self) -> bool:
        """True if a channel is summed run by run; otherwise the channels of a row stand side by side."""
        long = LONG_RUN if self.size > IN_CACHE else LONG_RUN_IN_CACHE
        return self.run >= long or self.channel_stride != self.run

    @property
    def is_dense(self) -> bool:
        """True if the elements lie without gaps and without overlaps."""
        return self.channel_stride == self.run and self.row_stride == self.run * self.channels

    @property
    def where(self) -> tuple[int, ...]:
        """Numbers that a kernel takes beside an array's memory."""
        return self.row_stride, self.channel_stride, self.run, self.rows, self.channels

    @property
    def elements(self) -> int:
        """Number of elements per group and channel."""
        return self.rows * self.run

    @property
    def size(self) -> int:
        """Number of all elements."""
        return self.groups * self.elements * self.channels


@functools.lru_cache(maxsize=1024)
def find_layout(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, axis: int, groups: int
) -> Layout | None:
    """Return the layout of an array with elements, or None where it must be copied first.

    Parameters
    ----------
    shape, strides : tuple of int
        NumPy's; strides in bytes.
    itemsize : int
        Bytes per element.
    axis : int
        The channel axis.
    groups : int
        Number of consecutive parts of axis 0, each normalized by itself.
    """
    if not 0 <= axis < len(shape) or groups < 1 or shape[0] % groups or (groups > 1 and axis == 0):
        raise refusal(
            ValueError,
            "BN-GRP-2",
            got=f"{groups} groups of an array of shape {shape} with the channels on axis {axis}",
            expected="a divisor of the samples on axis 0, and an axis of the array",
            do="Pass bnspec.Groups that belong to x.",
        )
    if any(s % itemsize or s <= 0 for s, n in zip(strides, shape, strict=True) if n > 1):
        return None
    order = sorted(range(len(shape)), key=lambda a: (-strides[a] if shape[a] > 1 else 0, a))
    elements = [s // itemsize for s in strides]
    long = [a for a in order if shape[a] > 1 and a != axis]
    if shape[axis] > 1:
        positions = [sum(1 for a in long if (strides[a], -a) > (strides[axis], -axis))]
    else:  # a single channel may stand anywhere behind the samples: where what follows it has no gaps
        positions = list(range(int(long[:1] == [0]), len(long) + 1))
    for position in positions:
        before, after = long[:position], long[position:]
        run, rows = _joined(after, shape, elements), _joined(before, shape, elements)
        innermost = after[-1] if after else axis
        if run and rows and (shape[innermost] == 1 or elements[innermost] == 1):
            break
    else:
        return None
    if groups > 1 and (not before or before[0] != 0):
        return None
    channel_stride = elements[axis] if shape[axis] > 1 else run[0]
    row_stride = rows[1] if before else channel_stride * shape[axis]
    span = 1 + sum((n - 1) * s for n, s in zip(shape, elements, strict=True) if n > 1)
    return Layout(tuple(order), groups, rows[0] // groups, shape[axis], run[0], row_stride, channel_stride, span)


@functools.lru_cache(maxsize=1024)
def dense(layout: Layout) -> Layout:
    """Return the layout of an array with the same axes in the same order and no gaps between them."""
    channel = layout.run
    row = channel * layout.channels
    return layout._replace(row_stride=row, channel_stride=channel, span=row * layout.rows * layout.groups)


def _joined(axes: list[int], shape: tuple[int, ...], strides: list[int]) -> tuple[int, int] | None:
    """Return extent and stride of axes as one, largest stride first; None where there are gaps between them."""
    if not axes:
        return 1, 1
    for outer, inner in itertools.pairwise(axes):
        if strides[outer] != strides[inner] * shape[inner]:
            return None
    return math.prod(shape[a] for a in axes), strides[axes[-1]]
