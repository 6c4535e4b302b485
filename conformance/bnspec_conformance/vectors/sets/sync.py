"""Vectors of several ranks that share their statistics."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.concatenate import concatenated
from bnspec_conformance.cases.inputs.families import exact_inputs
from bnspec_conformance.cases.outputs import proving
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import between_ranks, parts, positions
from bnspec_conformance.vectors.vector import Pair, Vector

__all__ = ["vectors"]

_HALF = [True, True, False, False]
_OFF = [False] * 4


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "sync"."""
    yield from _whole(draw)
    yield from _worlds(draw)
    yield from _by_rank(draw)
    yield from _not_finite(draw)
    yield from _exact(draw)


def _agreeing(vector: Vector, *more: Any) -> Vector:
    """Return the vector with what all of its ranks hold alike."""
    state = " ".join(f"state.{name}" for name in vector.case.state or ()) if vector.case.update else ""
    dots = "mean_dot var_dot" if vector.case.has_jvp else ""
    ranks = between_ranks(vector.id, len(vector.case.ranks), f"count mean var {state} {dots}", "BN-SYNC-2")
    return dataclasses.replace(vector, relations=(ranks, *more))


def _whole(draw: Draw) -> Iterator[Vector]:
    """Ranks beside one process that has all of their samples."""
    rows: tuple[tuple[str, list[int], dict[str, Any], str], ...] = (
        ("two", [3, 3], {}, "Two ranks of one size"),
        ("uneven", [4, 1, 2], {"correction": 1}, "Uneven ranks, weighed by their elements and not one as the other"),
        ("empty-rank", [3, 0, 2], {}, "A rank without samples, which takes part all the same"),
        ("only-one-has-data", [0, 4, 0], {"averaging": "cumulative"}, "One rank has all the data"),
        ("mask", [4, 4], {"masks": (_HALF, None), "averaging": "pooled"}, "A mask on one rank, pooled averaging"),
        ("off", [4, 4], {"masks": (_OFF, _HALF)}, "A rank that is masked throughout"),
        ("ghost", [4, 4], {"virtual_batch_size": 2, "ghost_source": "merged"}, "Ghost groups joined across the ranks"),
        ("four", [2, 1, 3, 2], {"dtype": "float64"}, "Four ranks of float64 x"),
        ("far", [3, 2], {"offset": [1e4, 1e4 + 3]}, "Means far from zero, which E[x^2] - E[x]^2 of sums would lose"),
        ("far-apart", [3, 2], {"offset": [1000.0, -3000.0]}, "Ranks far from each other: between-rank variance"),
    )
    for name, sizes, options, what in rows:
        options = dict(options)
        offset = options.pop("offset", [0.0] * len(sizes))
        key, shapes = f"sync/{name}", [(n, 2, 2) for n in sizes]
        x = [draw.stream(f"{key}/x-{r}").normals(s) + o for r, (s, o) in enumerate(zip(shapes, offset))]
        vector = _agreeing(
            draw.vector(
                key,
                f"{what}: statistics, y and dx are those of all samples in one process.",
                *shapes,
                x=x,
                vjp=True,
                jvp=True,
                state="used",
                **options,
            )
        )
        one, places = concatenated(vector.case)
        shape = one.ranks[0].x.shape
        pairs = [
            Pair(n, n, with_rank=r, take=positions(shape, 0, place.tolist()))
            for r, place in enumerate(places)
            for n in ("y", "dx", "ydot")
        ]
        state = [f"state.{n}" for n in vector.case.state or () if n != "count"]
        pairs += [Pair(n, n) for n in ("mean", "var", "mean_dot", "var_dot", *state)]
        yield vector
        yield Vector(
            id=f"{key}-in-one-process",
            why=f"The samples of {key} in one process, which the ranks have to equal.",
            case=one,
            outputs=("y", "mean", "var", "dx", "ydot", "mean_dot", "var_dot", "state"),
            clauses={"y": ("BN-NORM-1",)},
            relations=(parts("ranks joined", key, pairs, "BN-SYNC-1"),),
        )


def _worlds(draw: Draw) -> Iterator[Vector]:
    renorm = Renorm(rmax=1.5, dmax=0.75)
    rows: tuple[tuple[str, list[tuple[int, ...]], dict[str, Any], tuple[str, ...], str], ...] = (
        (
            "nothing",
            [(0, 2, 2), (0, 2, 2)],
            {},
            ("BN-SYNC-3", "BN-MOM-7"),
            "No rank has a sample: count 0, and the state stays",
        ),
        (
            "extents",
            [(2, 2, 3), (4, 2, 1), (1, 2, 2)],
            {},
            ("BN-SYNC-1", "BN-SYNC-3"),
            "Ranks differ in every extent but the channels': weights are elements, not samples",
        ),
        ("no-channels", [(2, 0), (3, 0)], {}, ("BN-SHAPE-4",), "No channel"),
        (
            "one-each",
            [(1, 2), (1, 2)],
            {"correction": 1},
            ("BN-SYNC-1", "BN-RUN-3"),
            "One element on each rank: n is 2, so correction 1 divides by 1 and nothing is refused",
        ),
        (
            "ghost-extents",
            [(4, 2, 2), (4, 2, 1)],
            {"virtual_batch_size": 2, "ghost_source": "sequential"},
            ("BN-SYNC-5",),
            "Ghost groups over ranks of other extents",
        ),
        (
            "ghost-masked-group",
            [(4, 2), (4, 2)],
            {"virtual_batch_size": 2, "masks": (_HALF, None), "ghost_source": "mean"},
            ("BN-SYNC-5",),
            "A group that is masked on one rank alone",
        ),
        ("renorm", [(3, 2), (2, 2)], {"renorm": renorm}, ("BN-RENORM-8",), "r and d follow from the joined statistics"),
        (
            "renorm-paper",
            [(2, 2), (4, 2)],
            {"renorm": dataclasses.replace(renorm, form="paper"), "correction": 1},
            ("BN-RENORM-8",),
            "The same in the paper's form",
        ),
    )
    for name, shapes, options, clauses, what in rows:
        yield _agreeing(
            draw.vector(
                f"sync/{name}",
                f"{what}.",
                *shapes,
                vjp=True,
                state="used",
                clauses=dict.fromkeys(("y", "count", "mean", "var", "state"), clauses),
                **options,
            )
        )
    shapes2 = [(3, 2), (2, 2)]
    yield draw.vector(
        "sync/loss-on-one-rank",
        "dy 0 on rank 1: its dx is not 0, since its x moves the statistics of rank 0.",
        *shapes2,
        dy=[draw.stream("sync/loss-on-one-rank/dy").normals((3, 2)), np.zeros((2, 2))],
        outputs=("dx", "dgamma", "dbeta"),
    )
    yield draw.vector(
        "sync/cotangents",
        "Each rank has cotangents of the joined statistics: they are added up over the ranks.",
        *shapes2,
        vjp=True,
        cotangents=True,
        outputs=("dx",),
        clauses={"dx": ("BN-SYNC-6", "BN-GRAD-6")},
    )


def _by_rank(draw: Draw) -> Iterator[Vector]:
    rows: tuple[tuple[str, list[int], dict[str, Any], str], ...] = (
        ("uneven", [4, 1, 2], {}, "every rank has the same weight, whatever it holds"),
        ("empty-rank", [3, 0, 2], {}, "a rank without data has weight 0"),
        ("mask", [4, 4], {"masks": (_HALF, None)}, "the mask changes no rank's weight"),
        ("off", [4, 4], {"masks": (_OFF, _HALF)}, "a rank masked throughout has weight 0"),
        ("nothing", [0, 0], {}, "no rank has a weight"),
        ("correction", [4, 2], {"correction": 1}, "n is the sum of the counts"),
        ("ghost", [4, 4], {"virtual_batch_size": 2, "masks": ([True, False, True, True], None)}, "group by group"),
    )
    for name, sizes, options, what in rows:
        yield _agreeing(
            draw.vector(
                f"sync/by-rank-{name}",
                f"sync_weighting rank: {what}.",
                *[(n, 2, 2) for n in sizes],
                vjp=True,
                jvp=True,
                state="used",
                sync_weighting="rank",
                **options,
            )
        )
    shapes = [(3, 2), (3, 2)]
    counted = draw.vector("sync/even", "Even ranks by count, for the next one.", *shapes, vjp=True)
    yield _agreeing(counted)
    config = dataclasses.replace(counted.case.config, sync_weighting="rank")
    pairs = [Pair(n, n, rank=r, with_rank=r) for r in (0, 1) for n in ("y", "dx", "mean", "var")]
    yield counted.but(
        "even-by-rank",
        "With equal counts the weighting by rank is that by count.",
        case=dataclasses.replace(counted.case, config=config),
        relations=(parts("equal counts", counted.id, pairs, "BN-SYNC-8"),),
    )


def _not_finite(draw: Draw) -> Iterator[Vector]:
    clean = draw.vector("sync/finite", "Finite ranks, one of which the next ones spoil.", (3, 3), (2, 3), vjp=True)
    yield clean
    for name, number, value in (("nan", 0, np.nan), ("inf", 1, np.inf)):
        ranks = list(clean.case.ranks)
        x = ranks[number].x.copy()
        x[1, 0] = value
        ranks[number] = dataclasses.replace(ranks[number], x=x)
        pairs = []
        for r, rank in enumerate(clean.case.ranks):
            rest = positions(rank.x.shape, 1, [1, 2])
            pairs += [Pair(n, n, rank=r, with_rank=r, take=rest, with_take=rest) for n in ("y", "dx")]
            pairs += [Pair(n, n, rank=r, with_rank=r, take=(1, 2), with_take=(1, 2)) for n in ("mean", "var")]
        yield clean.but(
            f"{name}-on-rank-{number}",
            f"{name} on rank {number} spoils its channel on every rank, and no bit of another channel.",
            case=dataclasses.replace(clean.case, ranks=tuple(ranks)),
            clauses=proving("y mean var dx", "BN-SYNC-4"),
            relations=(parts("isolation", clean.id, pairs, "BN-SYNC-4", to_the_bit=True),),
        )


def _exact(draw: Draw) -> Iterator[Vector]:
    """Ranks whose joined moments floating point finds without rounding, if it divides last."""
    for n in (41, 49, 107):
        key = f"sync/exact-{n}"
        some = exact_inputs(draw.stream(f"{key}/x").generator(), (n - 1, 2), 1, np.float64)
        first = some - some.sum(axis=0) / (n - 1)  # mean 0, so that the joined mean shows its last bit
        yield _agreeing(
            draw.vector(
                key,
                f"A rank of {n - 1} elements of mean 0 and one of a single element: a port that merges by d*(n_b/n), "
                "which rounds, where (d*n_b)/n is exact.",
                (n - 1, 2),
                (1, 2),
                x=[first, np.array([[0.25 * n, 0.5 * n]])],
                outputs=("count", "mean", "var"),
                clauses={"mean": ("BN-MOM-6", "BN-SYNC-1")},
                exact=("mean",),
            )
        )
