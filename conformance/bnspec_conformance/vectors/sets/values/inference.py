"""Vectors of normalization by the running statistics."""

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
    """Yield the family "inference"."""
    yield from _kinds(draw)
    yield from _values(draw)
    yield from _alone(draw)


def _kinds(draw: Draw) -> Iterator[Vector]:
    renorm = Renorm(rmax=3.0, dmax=5.0)
    kinds: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("exponential", {}, "the stored mean and variance are used as they are"),
        ("cumulative", {"averaging": "cumulative"}, "the counter plays no part"),
        (
            "pooled",
            {"averaging": "pooled", "correction": 1},
            "the stored variance is used as it is, not corrected again",
        ),
        ("debiased", {"averaging": "debiased"}, "both are divided by 1 - decay^t"),
        ("ghost", {"virtual_batch_size": 3}, "a group size that does not divide the batch is ignored"),
        ("renorm", {"renorm": renorm}, "r and d play no part, nor does stddev"),
        ("renorm-paper", {"renorm": dataclasses.replace(renorm, form="paper")}, "the same for the paper's form"),
        ("no-gamma", {"scale": False}, "1 takes gamma's place and there is no dgamma"),
        ("no-beta", {"center": False}, "0 takes beta's place and there is no dbeta"),
        ("axis-2", {"axis": 2}, "channels on the last axis"),
    )
    for name, fields, what in kinds:
        shape = (4, 2, 3)
        for age in ("used", "fresh"):
            if age == "fresh" and name not in ("exponential", "debiased", "renorm"):
                continue
            clauses = {"y": ("BN-RUN-7", "BN-INF-1")} if name == "debiased" else {}
            yield draw.vector(
                f"inference/{name}-{age}",
                f"{name}, {'after some updates' if age == 'used' else 'before any update'}: {what}.",
                shape,
                mode="inference",
                state=age,
                vjp=True,
                jvp=True,
                clauses=clauses,
                **fields,
            )
    yield draw.vector(
        "inference/debiased-counts",
        "debiased with channels that saw 0, 1 and 400 batches: a port that divides 0 by 0, or has one power for all.",
        (3, 3),
        mode="inference",
        averaging="debiased",
        decay=0.9,
        state={"mean": [0.0, 0.1, -2.0], "var": [0.0, 0.05, 1.5], "count": np.array([0, 1, 400])},
        clauses={"y": ("BN-RUN-7",)},
    )


def _values(draw: Draw) -> Iterator[Vector]:
    stream = draw.stream("inference/far-mean")
    yield draw.vector(
        "inference/far-mean",
        "A running mean of 65537.5 and x near it: a port that takes x*scale + (beta - mean*scale).",
        (5, 3),
        x=stream.uniforms(65536, 65540, (5, 3)),
        mode="inference",
        state={"mean": 65537.5, "var": [0.5, 1e-3, 4.0]},
        vjp=True,
    )
    yield draw.vector(
        "inference/zero-variance",
        "A running variance of 0: epsilon alone is in the root.",
        (4, 3),
        mode="inference",
        state={"var": [0.0, 1e-12, 2.0]},
        epsilon=1e-5,
    )
    yield draw.vector(
        "inference/small-epsilon",
        "epsilon 1e-12 and variances near it: a port that sets a smallest epsilon, or a smallest variance.",
        (4, 3),
        mode="inference",
        state={"var": [1e-12, 1e-14, 1e-10], "mean": 0.0},
        x=draw.stream("inference/small-epsilon").normals((4, 3)) * 2.0**-20,
        epsilon=1e-12,
        clauses={"y": ("BN-INF-1", "BN-NORM-1")},
    )
    for dtype in ("float64", "float16", "bfloat16"):
        yield draw.vector(
            f"inference/{dtype}",
            f"{dtype} x: a port that casts the running statistics or the parameters to x's dtype.",
            (4, 3),
            dtype=dtype,
            mode="inference",
            state={"mean": [100.01, 3.0001, -0.1], "var": [0.01, 1.00001, 2.5]},
            x=draw.stream(f"inference/{dtype}").normals((4, 3)) + np.array([100.0, 3.0, 0.0]),
            vjp=True,
            clauses={"y": ("BN-INF-1", "BN-PREC-3")},
        )
    yield draw.vector(
        "inference/nan-in-the-state",
        "A channel whose state is NaN gives NaN there, and nowhere else.",
        (3, 3),
        mode="inference",
        state={"mean": [0.5, np.nan, 0.25]},
    )
    for name, shape in (("no-samples", (0, 3)), ("no-channels", (4, 0)), ("one-sample", (1, 3))):
        yield draw.vector(
            f"inference/{name}",
            f"Inference of {name.replace('-', ' ')}: every batch size goes.",
            shape,
            mode="inference",
            state="used",
            vjp=True,
            clauses={"y": ("BN-INF-2",) if name == "one-sample" else ("BN-SHAPE-4", "BN-INF-2")},
        )


def _alone(draw: Draw) -> Iterator[Vector]:
    shape = (4, 3, 2)
    whole = draw.vector(
        "inference/whole", "A batch, whose parts follow.", shape, mode="inference", state="used", vjp=True
    )
    yield whole
    rank = whole.case.ranks[0]
    assert rank.dy is not None
    second = positions(shape, 0, [1])
    yield whole.but(
        "one-of-the-whole",
        "The second sample alone has the y it has in the batch, to the bit.",
        case=dataclasses.replace(whole.case, ranks=(RankInputs(rank.x[1:2], rank.dy[1:2]),)),
        relations=(
            parts("alone", whole.id, [Pair(n, n, with_take=second) for n in ("y", "dx")], "BN-INF-2", to_the_bit=True),
        ),
    )
    x = rank.x.copy()
    x[0], x[2], x[3] = np.nan, np.inf, -np.inf
    yield whole.but(
        "beside-not-finite",
        "The second sample beside NaN and infinities: none of them reaches it, and dx depends on no x.",
        case=dataclasses.replace(whole.case, ranks=(RankInputs(x, rank.dy),)),
        relations=(
            parts("alone", whole.id, [Pair("y", "y", take=second, with_take=second)], "BN-INF-2", to_the_bit=True),
            equal("alone", whole.id, "dx", "BN-INF-3", to_the_bit=True),
        ),
    )
    yield whole.but(
        "masked",
        "A mask changes nothing in inference.",
        case=dataclasses.replace(whole.case, ranks=(RankInputs(rank.x, rank.dy, np.zeros((4, 1, 1), bool)),)),
        relations=(equal("mask ignored", whole.id, "y dx dgamma dbeta", "BN-INF-2", to_the_bit=True),),
    )
