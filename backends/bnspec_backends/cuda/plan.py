"""Plan of a launch: how the elements of an array are shared out to blocks and threads, from its shape and layout alone.

Nothing of the device is asked, so the same array gives the same bits on every device, and no device is needed to test
what is planned. There are two ways to walk over x. Where a channel has long runs of neighbours a block sums a part of
one channel. Where runs are short, as in NHWC arrays (runs of 1) or small images, a block sums some channels whose
elements stand side by side in each row, and a thread keeps its columns.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from bnspec_backends.layout import Layout

__all__ = ["Plan", "plan_for", "vector_width"]

#: Threads of a block at most; the kernels are compiled for it.
THREADS = 256

#: Blocks that sum, over all channels: six for each multiprocessor of a large device, two where parts of many channels
#: are joined by one block. As measured: with fewer a large array takes longer, with more the joining of a small one's
#: parts does.
BLOCKS, BLOCKS_OF_COLUMNS = 792, 264

#: Shorter runs of neighbours are taken as columns.
LONG_RUN = 128

#: Bytes that a thread reads at once at most, and bytes side by side that a row of columns should have.
VECTOR_BYTES, ROW_BYTES = 16, 128

#: Bytes of x that a thread has under way at once, and blocks that an elementwise kernel should at least have.
UNDER_WAY, LEAST_BLOCKS = 64, 2112

#: Vectors of an elementwise kernel's thread for each that it has under way: what it knows of its channels costs a load.
REPEATED = 8

#: Columns of one thread at most: each needs sums of its own.
MOST_COLUMNS = 4

#: Blocks that a grid can have beside each other in its second dimension.
MOST_PARTS = 65535


class Plan(NamedTuple):
    """Walk of a launch, its block and its grids."""

    walk: str  # the C++ type, as "Runs<4>"
    unroll: int  # vectors that a thread loads before it uses the first
    threads: int
    lanes: int
    width: int
    team: int
    blocks: int
    parts: int  # of each channel where it is summed
    tiles: int  # of each channel where it is computed element by element
    kept: int

    def shared_bytes(self, numbers: int) -> int:
        """Return the bytes of shared memory for a kernel that leaves so many numbers of each thread and column."""
        return 8 * self.threads * (numbers * self.kept + 4) + 16


def vector_width(layouts: Sequence[Layout], sizes: Sequence[int], addresses: Sequence[int]) -> tuple[bool, int]:
    """Return whether arrays are walked over by columns, and how many neighbours can be read at once.

    Parameters
    ----------
    layouts : sequence of Layout
        Of all arrays of x's shape that a launch reads or writes; they differ in strides alone.
    sizes : sequence of int
        Bytes of an element of each.
    addresses : sequence of int
        Where the first element of each is.
    """
    x = layouts[0]
    columns = x.run < LONG_RUN and all(v.channel_stride == v.run for v in layouts)
    width = min(VECTOR_BYTES // size for size in sizes)
    together = x.run * x.channels if columns else x.run
    width = min(width, MOST_COLUMNS) if columns else width
    while width > 1 and not (
        together % width == 0
        and all(address % (width * size) == 0 for address, size in zip(addresses, sizes, strict=True))
        and all(_fits(v, width, columns) for v in layouts)
    ):
        width //= 2
    return columns, width


def _fits(layout: Layout, width: int, columns: bool) -> bool:
    """Return whether rows and channels begin at multiples of a width."""
    rows = layout.rows * layout.groups == 1 or layout.row_stride % width == 0
    return rows and (columns or layout.channels == 1 or layout.channel_stride % width == 0)


@functools.lru_cache(maxsize=1024)
def plan_for(groups: int, rows: int, channels: int, run: int, columns: bool, vector: int, size: int) -> Plan:
    """Plan a launch over x, ``(groups, rows, channels, run)``, none of them 0.

    Parameters
    ----------
    groups, rows, channels, run : int
        As `Layout` has them.
    columns : bool
        Whether a thread keeps its columns.
    vector : int
        Neighbours that are read at once: 1, 2, 4 or 8.
    size : int
        Bytes of an element of x.
    """
    unroll = max(1, min(8, UNDER_WAY // (vector * size)))
    if not columns:
        length = rows * (run // vector)
        threads = min(THREADS, max(32, _power_of_two_from(_parts(length, unroll))))
        blocks = groups * channels
        most = _parts(length, threads * unroll)
        parts = max(1, min(_parts(BLOCKS, blocks), most, MOST_PARTS))
        tiles = _tiles(most, blocks)
        return Plan(f"Runs<{vector}>", unroll, threads, threads, 1, threads, blocks, parts, tiles, 1)

    unit = vector // math.gcd(run, vector)  # channels after which a vector begins with a channel again
    unit_lanes = unit * run // vector
    width = min(unit * max(1, ROW_BYTES // (vector * size) // unit_lanes), channels)
    lanes = width * run // vector
    high = max(1, min(THREADS // lanes, _parts(rows, unroll)))
    threads = lanes * high
    team = min(_power_of_two_to(max(1, threads // width)), _power_of_two_from(run * high))
    blocks = groups * _parts(channels, width)
    most = _parts(rows, high * unroll)
    parts = max(1, min(_parts(BLOCKS_OF_COLUMNS, blocks), most, MOST_PARTS))
    tiles = _tiles(most, blocks)
    return Plan(f"Columns<{vector}>", unroll, threads, lanes, width, team, blocks, parts, tiles, vector)


def _tiles(most: int, blocks: int) -> int:
    """Return the parts of an elementwise kernel: few enough to be worth their beginning, enough to fill a device."""
    return max(1, min(most, MOST_PARTS, max(_parts(most, REPEATED), _parts(LEAST_BLOCKS, blocks))))


def _parts(n: int, of: int) -> int:
    return -(-n // of)


def _power_of_two_from(n: int) -> int:
    """Return the least power of two that is not less than n."""
    return 1 << (n - 1).bit_length()


def _power_of_two_to(n: int) -> int:
    """Return the largest power of two that is not more than n."""
    return 1 << (n.bit_length() - 1)
