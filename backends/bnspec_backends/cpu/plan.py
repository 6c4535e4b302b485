"""Plan of a call: its blocks and passes, cut by shape alone, so that no result depends on the number of threads."""

import functools
from typing import Any, NamedTuple

import numpy

from bnspec_backends.layout import Layout, dense

__all__ = ["CANCELLATION", "Plan", "plan_for"]

#: Largest ratio of the cancelling part of a sum of squares to the rest; above it there is a second pass.
CANCELLATION = 8.0

#: Elements of a compiled block: enough that handing it out costs nothing beside computing it, few enough for the cache.
BLOCK = 1 << 17

#: Fewer channels than this, counted over groups, are cut by rows if they are long, so that every thread has work.
FEW = 4

#: Rows with more columns than this are cut by channels, so that the sums of a block stay in the first-level cache.
WIDEST = 8192

#: Columns summed at once where rows are cut by channels.
COLUMNS = 1024


class Plan(NamedTuple):
    """Blocks of one layout, with the other numbers that are computed once for it."""

    #: A row for each block, as `channel_major` and `channel_minor` define it.
    blocks: Any
    #: Partial sums of each group or task; 1 if each block holds all its rows, so that its passes may be fused.
    parts: int
    #: `channel_major` rather than `channel_minor`.
    by_runs: bool
    #: `Layout.where` of the array, and of a result, which has no gaps.
    where: tuple[int, ...]
    dense: tuple[int, ...]
    #: Elements of each group and channel.
    count: Any


@functools.lru_cache(maxsize=1024)
def plan_for(layout: Layout) -> Plan:
    """Cut a layout into blocks."""
    blocks, parts = _runs(layout) if layout.by_runs else _columns(layout)
    table = numpy.asarray(blocks, numpy.int64)
    count = numpy.full((layout.groups,), layout.elements)
    for v in (table, count):
        v.setflags(write=False)
    return Plan(table, parts, layout.by_runs, layout.where, dense(layout).where, count)


def _runs(layout: Layout) -> tuple[list[tuple[int, ...]], int]:
    tasks, rows = layout.groups * layout.channels, layout.rows
    if tasks < FEW and layout.elements > BLOCK and rows > 1:
        each = max(1, BLOCK // layout.run)
        cuts = [(first, min(first + each, rows)) for first in range(0, rows, each)]
        return [(t, t + 1, *cut, p) for t in range(tasks) for p, cut in enumerate(cuts)], len(cuts)
    each = max(1, min(BLOCK // max(1, layout.elements), tasks // 8))
    return [(t, min(t + each, tasks), 0, rows, 0) for t in range(0, tasks, each)], 1


def _columns(layout: Layout) -> tuple[list[tuple[int, ...]], int]:
    columns = layout.channels * layout.run
    blocks: list[tuple[int, ...]] = []
    parts = 1
    for g in range(layout.groups):
        start = g * layout.rows
        if columns > WIDEST or layout.rows == 1:
            step = max(1, COLUMNS // layout.run)
            each = step * max(1, BLOCK // (layout.rows * layout.run * step))
            for c in range(0, layout.channels, each):
                blocks.append((start, layout.rows, c, min(each, layout.channels - c), step, g, 0))
            continue
        each = max(1, BLOCK // columns)
        parts = -(-layout.rows // each)
        for p in range(parts):
            rows = min(each, layout.rows - p * each)
            blocks.append((start + p * each, rows, 0, layout.channels, layout.channels, g, p))
    return blocks, parts
