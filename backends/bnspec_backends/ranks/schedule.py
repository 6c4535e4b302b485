"""Schedule of messages by which every rank ends with one array of all; it depends on rank numbers alone.

The ranks are cut into blocks of consecutive numbers, those into smaller blocks, down to single ranks. Round by round,
from the smallest blocks up, each rank takes the result of every other block of its group from one of that block's
ranks, and folds them in the order of the blocks. All ranks of a block then hold the same bits, since they folded the
same arrays in the same order; after the last round that is all ranks.

With one round this is an all-gather: `size - 1` arrays come in. With several, `factor - 1` come in per round and at
most twice as many go out, and there are ``log(size)/log(factor)`` rounds, so that what a rank moves grows with the
logarithm of the world. Launchers number the ranks of a node consecutively, so the first rounds stay within it.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

__all__ = ["ONE_ROUND", "Round", "factor_for", "folded", "plan"]

T = TypeVar("T")

#: Up to this many ranks every rank receives from every other: one round, and each knows by itself which one is missing.
ONE_ROUND = 32

#: Most blocks joined in a round, in larger worlds. docs/scaling.md has the model behind the choice.
_JOINED = 8


class Round(NamedTuple):
    """Part of one rank in a round.

    Attributes
    ----------
    sources : tuple of int
        In the order of the blocks, the rank whose array stands for the block; the own rank for the own block.
    targets : tuple of int
        The ranks that take this rank's array.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]


def factor_for(size: int) -> tuple[int, int]:
    """Return the number of blocks joined per round, and the number of rounds.

    Examples
    --------
    >>> factor_for(4), factor_for(32), factor_for(33), factor_for(1024)
    ((4, 1), (32, 1), (6, 2), (6, 4))
    """
    if size <= ONE_ROUND:
        return size, min(1, size - 1)
    rounds = 1
    while _JOINED**rounds < size:
        rounds += 1
    factor = 2
    while factor**rounds < size:
        factor += 1
    return factor, rounds


@functools.lru_cache(maxsize=64)
def plan(size: int, rank: int) -> tuple[Round, ...]:
    """Return the rounds of one rank, in the order in which they happen.

    Examples
    --------
    >>> plan(3, 1)
    (Round(sources=(0, 1, 2), targets=(0, 2)),)
    >>> plan(1, 0)
    ()
    """
    factor, number = factor_for(size)
    made: list[Round] = []
    start, end = 0, size
    for _ in range(number):
        blocks = _cut(start, end, factor)
        mine = next(block for block in blocks if block[0] <= rank < block[1])
        sources = tuple(rank if block == mine else _partner(rank - mine[0], block) for block in blocks)
        others = [block for block in blocks if block != mine]
        targets = tuple(
            other for block in others for other in range(*block) if _partner(other - block[0], mine) == rank
        )
        if others:
            made.append(Round(sources, targets))
        start, end = mine
    return tuple(reversed(made))


def folded(arrays: Sequence[T], combine: Callable[[T, T], T]) -> T:
    """Fold the arrays of all ranks where one rank has them all, in the order in which `plan` has them folded.

    Examples
    --------
    >>> folded(["a", "b", "c"], lambda a, b: f"({a}{b})")
    '((ab)c)'
    """
    factor, _ = factor_for(len(arrays))

    def fold(start: int, end: int) -> T:
        if end - start == 1:
            return arrays[start]
        return functools.reduce(combine, (fold(*block) for block in _cut(start, end, factor)))

    return fold(0, len(arrays))


def _cut(start: int, end: int, parts: int) -> list[tuple[int, int]]:
    """Cut a range into at most so many blocks, whose lengths differ by 1 at most; none is empty."""
    edges = [start + (end - start) * i // parts for i in range(parts + 1)]
    return [(a, b) for a, b in itertools.pairwise(edges) if a < b]


def _partner(offset: int, block: tuple[int, int]) -> int:
    """Return the rank of a block that sends to the rank with this offset in its own block."""
    return block[0] + offset % (block[1] - block[0])
