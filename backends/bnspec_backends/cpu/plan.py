"""How a call is cut into blocks: by shape alone, so that no result depends on the number of threads."""

import functools
from typing import NamedTuple

from bnspec_backends.cpu.layout import Layout

__all__ = ["Plan", "plan_for"]

#: Elements of a block: enough that handing it out costs nothing beside computing it, few enough to stay in cache.
BLOCK = 1 << 19

#: Rows with more columns than this are cut by channels, so that the sums of a block stay in the first-level cache.
WIDEST = 8192

#: Columns that are summed at once where rows are cut by channels.
COLUMNS = 1024


class Plan(NamedTuple):
    """The blocks of one layout."""

    by_runs: bool
    #: For runs: (first, last) tasks. For columns: (row, rows, channel, channels, step), the row counted over groups.
    blocks: tuple[tuple[int, ...], ...]
    #: For columns: the group of each block, and its row of partial sums within the group.
    homes: tuple[tuple[int, int], ...]
    #: For columns: rows of partial sums per group; 1 where each block holds all rows of its group.
    parts: int

    @property
    def fusible(self) -> bool:
        """Whether each block holds all elements of its channels, so that both passes of it can follow each other."""
        return self.by_runs or self.parts == 1


@functools.lru_cache(maxsize=1024)
def plan_for(layout: Layout) -> Plan:
    """Cut a layout into blocks."""
    if layout.by_runs:
        tasks = layout.groups * layout.channels
        each = max(1, min(BLOCK // max(1, layout.elements), tasks // 8))
        blocks = tuple((t, min(t + each, tasks)) for t in range(0, tasks, each))
        return Plan(True, blocks, (), 1)

    columns = layout.channels * layout.run
    found: list[tuple[int, ...]] = []
    homes = []
    parts = 1
    for g in range(layout.groups):
        start = g * layout.rows
        if columns > WIDEST or layout.rows == 1:
            step = max(1, COLUMNS // layout.run)
            each = step * max(1, BLOCK // (layout.rows * layout.run * step))
            for c in range(0, layout.channels, each):
                found.append((start, layout.rows, c, min(each, layout.channels - c), step))
                homes.append((g, 0))
            continue
        each = max(1, BLOCK // columns)
        parts = -(-layout.rows // each)
        for i in range(parts):
            found.append((start + i * each, min(each, layout.rows - i * each), 0, layout.channels, layout.channels))
            homes.append((g, i))
    return Plan(False, tuple(found), tuple(homes), parts)
