"""Vectors of masks: elements that count in no statistic."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, RankInputs
from bnspec_conformance.cases.outputs import proving
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import equal, parts, positions
from bnspec_conformance.vectors.vector import Pair, Vector

__all__ = ["vectors"]


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "mask"."""
    yield from _extents(draw)
    yield from _held(draw)
    yield from _dropped(draw)
    yield from _true(draw)
    yield from _nothing(draw)


def _extents(draw: Draw) -> Iterator[Vector]:
    half = [1, 0, 1, 1, 0, 1, 1, 1]
    rows: tuple[tuple[str, Any, dict[str, Any], str], ...] = (
        ("samples", [1, 0, 1, 1], {}, "Whole samples"),
        ("elements", np.reshape(half, (4, 1, 2)), {}, "Parts of samples"),
        ("pixels", np.reshape([1, 0], (1, 1, 2)), {}, "The same pixels of every sample, extent 1 along the samples"),
        ("all-but-one", np.reshape([0, 0, 0, 0, 0, 1, 0, 0], (4, 1, 2)), {}, "All but one element"),
        ("one", np.reshape([1, 1, 1, 1, 1, 0, 1, 1], (4, 1, 2)), {}, "One element"),
        ("ghost", np.reshape(half, (4, 1, 2)), {"virtual_batch_size": 2}, "Groups of different count"),
        ("channels", np.reshape([*half, *half[::-1], *half], (4, 3, 2)), {}, "Other elements of each channel"),
        (
            "channel-without",
            np.reshape([1, 1, 0, 1, 1, 0] * 4, (4, 3, 2)),
            {"averaging": "pooled"},
            "All of one channel",
        ),
        ("float64", np.reshape(half, (4, 1, 2)), {"dtype": "float64"}, "float64 x"),
        ("correction", [1, 0, 1, 0], {"correction": 1}, "correction 1: n is the unmasked count"),
        ("pooled", [1, 0, 1, 0], {"averaging": "pooled"}, "pooled: the counter grows by the unmasked count"),
    )
    for name, mask, options, what in rows:
        clauses = {"mean": ("BN-MASK-1", "BN-MOM-5"), "var": ("BN-MASK-1", "BN-MOM-5")} if name == "all-but-one" else {}
        yield draw.vector(
            f"mask/{name}",
            f"{what} masked: y and dx of masked elements are theirs too, by the statistics of the others.",
            (4, 3, 2),
            masks=(mask,),
            vjp=True,
            jvp=True,
            state="used",
            clauses=clauses,
            exact=("mean", "var") if clauses else (),
            **options,
        )
    yield draw.vector(
        "mask/channels-last",
        "A mask of images with channels on the last axis.",
        (3, 2, 2, 2),
        masks=(np.reshape([1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1], (3, 2, 2, 1)),),
        vjp=True,
        axis=-1,
    )


def _held(draw: Draw) -> Iterator[Vector]:
    """Yield cases whose masked elements must not affect the others."""
    shape, mask = (5, 2, 2), np.reshape([1, 1, 0, 1, 1, 0, 0, 0, 1, 1], (5, 1, 2))
    why = "A masked batch; the next ones hold other values there."
    base = draw.vector("mask/held", why, shape, masks=(mask,), vjp=True, jvp=True, state="used")
    yield base
    rank = base.case.ranks[0]
    live = np.flatnonzero(np.broadcast_to(mask.astype(bool), shape)).tolist()
    same = [Pair(n, n) for n in ("mean", "var", "state.mean", "state.var")]
    same.append(Pair("y", "y", take=tuple(live), with_take=tuple(live)))
    for name, values in (
        ("nan", [np.nan]),
        ("infinities", [np.inf, -np.inf]),
        ("large", [1e30, -1e4]),
        ("zero", [0.0]),
    ):
        x = rank.x.copy()
        out = ~np.broadcast_to(mask.astype(bool), shape)
        x[out] = np.resize(np.array(values), int(out.sum())).astype(x.dtype)
        yield base.but(
            f"held-{name}",
            f"Masked elements hold {name}: a port that multiplies by the mask, where 0 times NaN is NaN.",
            case=dataclasses.replace(base.case, ranks=(dataclasses.replace(rank, x=x),)),
            clauses={} if np.isfinite(values).all() else proving("y dx dgamma dbeta ydot", "BN-MASK-3"),
            relations=(parts("masked values", base.id, same, "BN-MASK-1", to_the_bit=True),),
        )


def _dropped(draw: Draw) -> Iterator[Vector]:
    shape, keep = (6, 2, 2), [0, 2, 3, 5]
    mask = np.zeros(6, bool)
    mask[keep] = True
    dy = draw.stream("mask/dropped/dy").normals(shape) * mask.reshape(6, 1, 1)
    masked = draw.vector(
        "mask/whole-samples",
        "Whole samples masked, dy 0 there: the batch without them, in every result.",
        shape,
        masks=(mask,),
        dy=dy,
        state="used",
        clauses=proving("y dx dgamma dbeta", "BN-MASK-6"),
    )
    yield masked
    rank = masked.case.ranks[0]
    assert rank.dy is not None
    pairs = [Pair(n, n, with_take=positions(shape, 0, keep)) for n in ("y", "dx")]
    pairs += [Pair(n, n) for n in ("mean", "var", "dgamma", "dbeta", "state.mean", "state.var")]
    yield masked.but(
        "whole-samples-dropped",
        "The same batch without these samples and without a mask.",
        case=dataclasses.replace(masked.case, ranks=(RankInputs(rank.x[keep], rank.dy[keep]),)),
        clauses={},
        relations=(parts("samples dropped", masked.id, pairs, "BN-MASK-6"),),
    )


def _true(draw: Draw) -> Iterator[Vector]:
    shape = (4, 2, 3)
    plain = draw.vector("mask/none", "A batch without a mask.", shape, vjp=True, state="used")
    yield plain
    rank = plain.case.ranks[0]
    for name, extents in (("one", (1, 1, 1)), ("samples", (4, 1, 1)), ("pixels", (1, 1, 3)), ("full", (4, 1, 3))):
        yield plain.but(
            f"all-true-{name}",
            f"A mask of shape {extents} that is true everywhere is no mask; it broadcasts over extents of 1.",
            case=dataclasses.replace(plain.case, ranks=(RankInputs(rank.x, rank.dy, np.ones(extents, bool)),)),
            clauses=proving("y dx mean var", "BN-MASK-7"),
            relations=(equal("mask of trues", plain.id, "y mean var dx dgamma dbeta", "BN-MASK-7"),),
        )


def _nothing(draw: Draw) -> Iterator[Vector]:
    def nothing(
        name: str, why: str, shape: tuple[int, ...], mask: Array, exact: tuple[str, ...], **options: Any
    ) -> Vector:
        return draw.vector(
            f"mask/{name}",
            why,
            shape,
            masks=(mask,),
            vjp=True,
            state="used",
            clauses=proving("y dx dgamma dbeta state", "BN-MASK-5"),
            exact=exact,
            **options,
        )

    off = np.zeros((3, 1, 2), bool)
    for averaging in ("exponential", "cumulative", "pooled", "debiased"):
        yield nothing(
            f"all-masked-{averaging}",
            f"Everything masked, {averaging}: y is the affine image by mean 0 and variance 0, and the state stays.",
            (3, 2, 2),
            off,
            ("mean", "var", "state"),
            averaging=averaging,
        )
    yield nothing(
        "all-masked-correction",
        "Everything masked with correction 1 and single_value raise: count 0 is no single value, and no error.",
        (3, 2, 2),
        off,
        ("mean", "var", "state"),
        correction=1,
    )
    x = draw.stream("mask/all-masked-nan/x").normals((3, 2, 2))
    x[0, 0, 0], x[1, 1, 1] = np.nan, np.inf
    yield nothing(
        "all-masked-nan",
        "Everything masked, NaN and infinity among it: no gradient is NaN.",
        (3, 2, 2),
        off,
        ("mean", "var", "state"),
        x=x,
    )
    half = np.zeros((4, 1, 2), bool)
    half[2:] = True
    for source in ("first", "merged", "mean"):
        yield nothing(
            f"masked-group-{source}",
            f"The first of two groups masked throughout, source {source}.",
            (4, 2, 2),
            half,
            ("state",) if source == "first" else (),
            virtual_batch_size=2,
            ghost_source=source,
        )
    yield nothing(
        "no-samples",
        "A mask of no samples: empty y and dx, gradients 0.",
        (0, 2, 2),
        np.ones((0, 1, 2), bool),
        ("mean", "var", "state", "dgamma", "dbeta"),
    )
