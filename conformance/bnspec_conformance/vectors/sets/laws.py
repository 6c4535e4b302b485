"""Relations between vectors: which elements of one result equal which of another."""

from collections.abc import Iterable, Sequence

import numpy as np

from bnspec_conformance.vectors.vector import Pair, Relation

__all__ = ["between_ranks", "equal", "moved", "parts", "positions"]


def positions(shape: Sequence[int], axis: int, indices: Iterable[int]) -> tuple[int, ...]:
    """Positions in the flat array of the elements with these indices along an axis, in the order of the indices."""
    places = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return tuple(int(i) for i in np.take(places, np.array(list(indices), dtype=np.int64), axis=axis).ravel())


def equal(kind: str, other: str, outputs: str, clauses: str, *, to_the_bit: bool = False) -> Relation:
    """Return the law that the named outputs (words in one text) of rank 0 are equal as a whole; clauses likewise."""
    pairs = tuple(Pair(name, name) for name in outputs.split())
    return Relation(kind=kind, other=other, clauses=tuple(clauses.split()), to_the_bit=to_the_bit, pairs=pairs)


def parts(kind: str, other: str, pairs: Iterable[Pair], clauses: str, *, to_the_bit: bool = False) -> Relation:
    """Return the law that the given elements are equal."""
    return Relation(kind=kind, other=other, clauses=tuple(clauses.split()), to_the_bit=to_the_bit, pairs=tuple(pairs))


def moved(
    outputs: str, shape: Sequence[int], axis: int, indices: Sequence[int], with_indices: Sequence[int] | None = None
) -> list[Pair]:
    """Pairs of outputs of one shape: what is at these indices along an axis, and at the same or other ones."""
    take = positions(shape, axis, indices)
    there = take if with_indices is None else positions(shape, axis, with_indices)
    return [Pair(name, name, take=take, with_take=there) for name in outputs.split()]


def between_ranks(own: str, ranks: int, outputs: str, clauses: str) -> Relation:
    """Return the laws that all ranks of one result agree with rank 0, to the bit."""
    pairs = [Pair(name, name, rank=r, with_rank=0) for r in range(1, ranks) for name in outputs.split()]
    return parts("ranks agree", own, pairs, clauses, to_the_bit=True)
