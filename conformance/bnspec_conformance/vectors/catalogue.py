"""All vectors, by family; a family is one file of an export."""

from collections.abc import Callable, Iterator, Mapping

from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets import refused, sync
from bnspec_conformance.vectors.sets.state import renorm, running, running_edges
from bnspec_conformance.vectors.sets.values import (
    core,
    derivatives,
    edges,
    ghost,
    hard,
    inference,
    mask,
    precision,
)
from bnspec_conformance.vectors.vector import Vector

__all__ = ["FAMILIES", "catalogue"]

_Makers = tuple[Callable[[Draw], Iterator[Vector]], ...]

#: The subject matter of each family, and its maker. Most are named for the profile that they need.
FAMILIES: Mapping[str, tuple[str, _Makers]] = {
    "core": ("y and the statistics of a batch", (core.vectors, edges.vectors)),
    "hard": ("y, statistics and dx on inputs where implementations lose digits", (hard.vectors,)),
    "running": ("the running state after an update", (running.vectors, running_edges.vectors)),
    "inference": ("y and derivatives by the running statistics", (inference.vectors,)),
    "grad": ("gradients", (derivatives.grad,)),
    "jvp": ("tangents", (derivatives.jvp,)),
    "cotangents": ("gradients through the returned mean and variance", (derivatives.cotangents,)),
    "ghost": ("virtual batches", (ghost.vectors,)),
    "renorm": ("batch renormalization", (renorm.vectors,)),
    "mask": ("masks", (mask.vectors,)),
    "sync": ("several ranks", (sync.vectors,)),
    "precision": ("16 bits, float64, and where numbers are rounded", (precision.vectors,)),
    "refused": ("what has to be refused", (refused.vectors,)),
}


def catalogue(family: str, seed: int = 0) -> list[Vector]:
    """Return the vectors of a family, in order; drawn values come from the seed."""
    draw = Draw(seed)
    made = [vector for maker in FAMILIES[family][1] for vector in maker(draw)]
    names = [vector.id for vector in made]
    assert len(set(names)) == len(names), sorted({n for n in names if names.count(n) > 1})
    for vector in made:
        assert vector.id.startswith(f"{family}/"), vector.id
        assert all(relation.other in names for relation in vector.relations), vector.id
    return made
