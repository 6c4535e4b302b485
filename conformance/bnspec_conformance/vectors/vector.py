"""Vector: a case with its purpose, the clauses that its outputs prove, and its relations to other vectors."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnspec_conformance.cases.case import Case

__all__ = ["Pair", "Relation", "Vector"]


@dataclass(frozen=True)
class Pair:
    """Elements of one output that equal elements of another.

    Attributes
    ----------
    output, with_output : str
        Such as "y" or "state.mean"; of this vector, and of the other.
    rank, with_rank : int
    take, with_take : tuple of int or None
        Positions in the flat array, row by row; None is all of it.
    """

    output: str
    with_output: str
    rank: int = 0
    with_rank: int = 0
    take: tuple[int, ...] | None = None
    with_take: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A law between the results of two vectors, or of two ranks of one.

    Attributes
    ----------
    kind : str
        The law in a word.
    other : str
        Id of the other vector, of the same file; it may be the vector's own.
    clauses : tuple of str
        The clauses that a breach breaks.
    to_the_bit : bool
        Equal to the bit; otherwise within the sum of the two bounds.
    pairs : tuple of Pair
    """

    kind: str
    other: str
    clauses: tuple[str, ...]
    to_the_bit: bool
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Vector:
    """One case of the catalogue.

    Attributes
    ----------
    id : str
        ``family/name``; never changes its meaning.
    why : str
        One sentence: what slip it catches.
    case : Case
    outputs : tuple of str or None
        Which results are given, "state" for all of the state; None is every one that the case has.
    clauses : mapping of str to tuple of str
        By output, where they are not those of `outputs.clauses_of`.
    exact : tuple of str
        Outputs that must be right to the bit.
    relations : tuple of Relation
    hard : bool
        Whether y and dx are held to 8 float32 roundoffs of their channel [BN-NORM-3, BN-GRAD-8].
    beyond_float32 : str
        Of a hard vector: why float32 arithmetic cannot reach that; then its computed bound holds there.
    refused : str
        The clause that refuses the case; empty where there are outputs.
    spoil : mapping
        Of a refused case: fields of the configuration that no `BatchNormConfig` can have.
    notes : str
        Further remarks for its reader.
    """

    id: str
    why: str
    case: Case
    outputs: tuple[str, ...] | None = None
    clauses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exact: tuple[str, ...] = ()
    relations: tuple[Relation, ...] = ()
    hard: bool = False
    beyond_float32: str = ""
    refused: str = ""
    spoil: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""

    def but(self, name: str, why: str, **changes: Any) -> "Vector":
        """Another vector of the same family, like this one but for the changes; without its relations."""
        family = self.id.split("/")[0]
        return dataclasses.replace(self, id=f"{family}/{name}", why=why, **({"relations": ()} | changes))
