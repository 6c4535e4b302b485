"""Vectors of ghost batches: runs of samples that are normalized by themselves."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.case import RankInputs
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import equal, parts, positions
from bnspec_conformance.vectors.vector import Pair, Vector

__all__ = ["vectors"]


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "ghost"."""
    rows: tuple[tuple[str, tuple[int, ...], int, dict[str, Any], str], ...] = (
        ("matrix", (6, 3), 2, {}, "Groups are runs of samples: a port that takes every third sample instead."),
        ("three-in-a-group", (6, 2), 3, {}, "Groups of three: a port that takes V for the number of groups."),
        ("images", (4, 2, 2, 2), 2, {}, "Groups of images: a port that splits pixels."),
        ("channels-last", (4, 3, 2), 2, {"axis": -1}, "Groups with channels on the last axis."),
        ("float64", (4, 2), 2, {"dtype": "float64"}, "Groups of float64 x."),
        ("no-parameters", (4, 2), 2, {"center": False, "scale": False}, "Groups without gamma and beta."),
    )
    for name, shape, size, options, why in rows:
        yield from _with_parts(draw, f"ghost/{name}", shape, size, options, why)
    yield draw.vector(
        "ghost/groups-of-one",
        "V = 1 on a matrix: every group has one element per channel, and y is beta.",
        (4, 3),
        virtual_batch_size=1,
        vjp=True,
        clauses={"y": ("BN-GRP-2", "BN-NORM-5")},
        exact=("y", "mean", "var"),
    )
    yield draw.vector(
        "ghost/groups-of-one-image",
        "V = 1 on images: every image by itself.",
        (3, 2, 2, 2),
        virtual_batch_size=1,
        vjp=True,
    )
    yield draw.vector(
        "ghost/no-samples",
        "N = 0: no group at all, statistics of shape (0, C) and gradients of parameters that are 0.",
        (0, 3),
        virtual_batch_size=2,
        vjp=True,
    )
    yield draw.vector(
        "ghost/no-channels",
        "C = 0 in groups: statistics of shape (G, 0).",
        (4, 0),
        virtual_batch_size=2,
        vjp=True,
        clauses={"y": ("BN-SHAPE-4", "BN-GRP-2")},
    )
    apart = np.repeat([[0.0, 5.0], [1000.0, -500.0], [-3.0, 0.0]], 2, axis=0)
    yield draw.vector(
        "ghost/far-groups",
        "Groups whose means lie far apart: a port that normalizes all of them by the whole batch's variance.",
        (6, 2),
        x=draw.stream("ghost/far-groups").normals((6, 2)) + apart,
        virtual_batch_size=2,
        vjp=True,
        jvp=True,
    )
    together: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("mask", {"masks": ([True, False, True, True, False, True],)}, "its own count"),
        ("renorm", {"renorm": Renorm(rmax=1.25, dmax=0.5), "state": "used", "update": False}, "its own r and d"),
    )
    for name, options, what in together:
        yield draw.vector(
            f"ghost/with-{name}",
            f"Groups with {name}: each group has {what}.",
            (6, 2),
            virtual_batch_size=2,
            vjp=True,
            jvp=True,
            **options,
        )
    whole = draw.vector("ghost/without", "A batch without groups.", (4, 3), vjp=True)
    yield whole
    yield whole.but(
        "all-in-one",
        "V = N is no V, to the bit.",
        case=dataclasses.replace(whole.case, config=dataclasses.replace(whole.case.config, virtual_batch_size=4)),
        relations=(equal("V = N", whole.id, "y mean var dx dgamma dbeta", "BN-GRP-4", to_the_bit=True),),
    )


def _with_parts(
    draw: Draw, name: str, shape: tuple[int, ...], size: int, options: dict[str, Any], why: str
) -> Iterator[Vector]:
    """Yield a batch in groups, then each group by itself."""
    whole = draw.vector(name, why, shape, virtual_batch_size=size, vjp=True, jvp=True, **options)
    yield whole
    rank, plain = whole.case.ranks[0], dataclasses.replace(whole.case.config, virtual_batch_size=None)
    channels = whole.case.channels
    for j in range(whole.case.groups):
        run = slice(j * size, (j + 1) * size)
        assert rank.dy is not None
        assert rank.xdot is not None
        there = positions(shape, 0, range(j * size, (j + 1) * size))
        row = tuple(range(j * channels, (j + 1) * channels))
        pairs = [Pair(n, n, with_take=there) for n in ("y", "dx", "ydot")]
        pairs += [Pair(n, n, with_take=row) for n in ("mean", "var")]
        yield whole.but(
            f"{name.split('/')[1]}-group-{j}",
            f"Group {j} of {name} by itself: the same numbers, to the bit, without any group.",
            case=dataclasses.replace(
                whole.case, config=plain, ranks=(RankInputs(rank.x[run], rank.dy[run], None, rank.xdot[run]),)
            ),
            outputs=("y", "mean", "var", "dx", "ydot"),
            relations=(parts("group alone", name, pairs, "BN-GRP-4", to_the_bit=True),),
        )
