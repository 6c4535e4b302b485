"""What a vector is: a case, why it is there, which clauses its outputs prove, and what it has to do with others."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bnspec_conformance.case import Case

__all__ = ["Pair", "Relation", "Vector", "clauses_of", "proving"]


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
        What the law is, in a word.
    other : str
        Id of the other vector, of the same file; it may be the vector's own.
    clauses : tuple of str
        What a breach breaks.
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
        By output, where they are not those of `clauses_of`.
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
        What else its reader should know.
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


def proving(outputs: str, *clauses: str) -> dict[str, tuple[str, ...]]:
    """The same clauses for each of the outputs, words in one text."""
    return dict.fromkeys(outputs.split(), clauses)


#: One table for each part of the specification; what a later one does not say, an earlier one does.
_Table = dict[str, tuple[str, ...]]
_BATCH: _Table = {
    "y": ("BN-NORM-1",),
    "count": ("BN-MOM-1",),
    "mean": ("BN-MOM-2",),
    "var": ("BN-MOM-3",),
    "dx": ("BN-GRAD-1",),
    "dgamma": ("BN-GRAD-2",),
    "dbeta": ("BN-GRAD-3",),
    "ydot": ("BN-GRAD-4",),
    "mean_dot": ("BN-GRAD-4",),
    "var_dot": ("BN-GRAD-4",),
}
_INFERENCE: _Table = proving("y", "BN-INF-1") | proving("dx dgamma dbeta ydot", "BN-INF-3")
_AVERAGING: Mapping[str, tuple[str, ...]] = {
    "exponential": ("BN-RUN-1",),
    "cumulative": ("BN-RUN-5",),
    "pooled": ("BN-RUN-6",),
    "debiased": ("BN-RUN-7",),
}
#: What else an output proves in groups, under a mask, and over several ranks.
_GHOST: _Table = proving(" ".join(_BATCH), "BN-GRP-2") | proving("state", "BN-RUN-8")
_MASK: _Table = (
    proving("count mean var state", "BN-MASK-1") | proving("y", "BN-MASK-2") | proving("dx dgamma dbeta", "BN-MASK-4")
)
_SYNC: _Table = (
    proving("y count state ydot mean_dot var_dot", "BN-SYNC-1")
    | proving("mean var", "BN-SYNC-1", "BN-MOM-7")
    | proving("dx", "BN-SYNC-6")
    | proving("dgamma dbeta", "BN-SYNC-7")
)
#: What takes the place of the first table: another formula holds.
_RENORM: _Table = {
    "dx": ("BN-GRAD-1", "BN-RENORM-2"),
    "dgamma": ("BN-GRAD-2", "BN-RENORM-2"),
    "ydot": ("BN-GRAD-4", "BN-RENORM-2"),
}
_FORMS: Mapping[str, tuple[str, ...]] = {
    "tensorpack": ("BN-RENORM-5", "BN-RENORM-7"),
    "paper": ("BN-RENORM-6", "BN-RENORM-7"),
}
_BY_RANK: _Table = proving(" ".join(_SYNC), "BN-SYNC-8") | {
    "count": ("BN-MOM-1", "BN-SYNC-8"),
    "dgamma": ("BN-GRAD-2", "BN-SYNC-7"),
    "dbeta": ("BN-GRAD-3", "BN-SYNC-7"),
}


def clauses_of(
    case: Case, output: str, given: Mapping[str, tuple[str, ...]], mode: Literal["batch", "inference"]
) -> tuple[str, ...]:
    """The clauses that an output proves: those given, else those of its formula and of what the case combines."""
    name = output.split(".")[0]
    if name in given:
        return given[name]
    if mode == "inference":
        return _INFERENCE[name]
    config = case.config
    found: _Table = {**_BATCH, "state": _AVERAGING[config.averaging]}
    if config.averaging == "exponential" and output == "state.var":
        found["state"] = ("BN-RUN-1", "BN-RUN-3")
    if config.renorm is not None:
        form = _FORMS[config.renorm.form]
        found |= _RENORM | {"y": ("BN-RENORM-1", form[0]), "state": form}
    more: list[_Table] = [_GHOST if config.virtual_batch_size is not None else {"count": ("BN-GRP-1",)}]
    if any(rank.mask is not None for rank in case.ranks):
        more.append(_MASK)
    if len(case.ranks) > 1 and config.sync_weighting == "count":
        more.append(_SYNC)
    elif len(case.ranks) > 1:
        found |= _BY_RANK
    return (*found[name], *(clause for table in more for clause in table.get(name, ())))
