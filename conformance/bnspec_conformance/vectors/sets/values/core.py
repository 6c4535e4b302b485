"""Vectors of y and the statistics of a batch: formula, parameters, epsilon, axes, exact statistics and laws."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.cases.inputs.families import exact_inputs
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import equal, moved, parts
from bnspec_conformance.vectors.stream import as_dtype
from bnspec_conformance.vectors.vector import Pair, Vector

__all__ = ["vectors"]


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "core", but for its edges."""
    yield draw.vector(
        "core/spec-example",
        "The example of SPEC.md, by hand: mean 0.5, variance 0.75, deviation 1.",
        (4, 1),
        x=[[0], [0], [0], [2]],
        gamma=[1],
        beta=[0],
        epsilon=0.25,
        clauses={"mean": ("BN-MOM-6",), "var": ("BN-MOM-6",)},
        exact=("mean", "var"),
    )
    yield from _parameters(draw)
    yield from _epsilons(draw)
    yield from _axes(draw)
    yield from _exact(draw)
    yield from _laws(draw)
    yield from _ordinary(draw)


def _parameters(draw: Draw) -> Iterator[Vector]:
    for center, scale in ((True, True), (False, True), (True, False), (False, False)):
        have = " and ".join(n for n, on in (("beta", center), ("gamma", scale)) if on) or "neither parameter"
        yield draw.vector(
            f"core/with-{have.replace(' ', '-')}",
            f"With {have}: a port that swaps gamma and beta, or takes an absent one for something else than 1 and 0.",
            (6, 3),
            center=center,
            scale=scale,
            clauses={"y": ("BN-NORM-1", "BN-NORM-2")},
        )
    yield draw.vector(
        "core/gamma-zero-and-negative",
        "gamma 0, negative, tiny and large: a port that divides by gamma, or takes its absolute value.",
        (5, 4),
        gamma=[0.0, -2.0, 2.0**-40, 1024.0],
    )
    yield draw.vector(
        "core/beta-large",
        "beta far larger than the rest: a port that folds the mean into the shift before it scales.",
        (5, 3),
        beta=[4096.0, -1e6, 0.0],
        gamma=[1.0, 0.001, 1.0],
    )
    yield draw.vector(
        "core/correction-does-not-normalize",
        "correction=1 is for the running state: a port that normalizes by m2/(n - 1).",
        (3, 3),
        correction=1,
        single_value="keep",
        clauses={"y": ("BN-NORM-1", "BN-RUN-3")},
    )


def _epsilons(draw: Draw) -> Iterator[Vector]:
    for name, epsilon, scale in (
        ("1e-12", 1e-12, 2.0**-18),
        ("1e-5", 1e-5, 2.0**-8),
        ("1e-3", 1e-3, 2.0**-5),
        ("1", 1.0, 1.0),
        ("1e3", 1000.0, 16.0),
        ("1e-30", 1e-30, 1.0),
    ):
        stream = draw.stream(f"core/epsilon-{name}")
        yield draw.vector(
            f"core/epsilon-{name}",
            f"epsilon {name} against a variance of its size: a port that adds it to the deviation, takes the larger of "
            "the two, or sets a smallest value.",
            (5, 3),
            x=stream.normals((5, 3)) * scale,
            epsilon=epsilon,
        )


def _axes(draw: Draw) -> Iterator[Vector]:
    for shape in ((4, 3), (3, 2, 4), (2, 3, 2, 4), (2, 2, 3, 1, 2)):
        for axis in range(len(shape)):
            kind = f"core/rank-{len(shape)}-axis"
            there = draw.vector(
                f"{kind}-{axis}",
                f"Channels on axis {axis} of rank {len(shape)}: a port that reduces the wrong axes, or broadcasts "
                "parameters along another one.",
                shape,
                axis=axis,
                clauses={"y": ("BN-NORM-1", "BN-SHAPE-2")},
            )
            yield there
            if axis in (1, len(shape) - 1):
                config = dataclasses.replace(there.case.config, axis=axis - len(shape))
                yield there.but(
                    f"rank-{len(shape)}-axis-{axis}-from-the-end",
                    f"The same with axis {axis - len(shape)}: a port that takes a negative axis for another one.",
                    case=dataclasses.replace(there.case, config=config),
                    relations=(equal("same axis", there.id, "y count mean var", "BN-SHAPE-2"),),
                )


def _exact(draw: Draw) -> Iterator[Vector]:
    rows: tuple[tuple[str, tuple[int, ...], int, str], ...] = (
        ("n3", (3, 2), 1, "float32"),
        ("n5", (5, 2), 1, "float32"),
        ("n6", (6, 2), 1, "float32"),
        ("n7", (7, 3), -1, "float32"),
        ("n8", (8, 2), 1, "float32"),
        ("n12", (2, 3, 3, 2), 1, "float32"),
        ("n48", (4, 4, 3, 2), -1, "float32"),
        ("n16-float64", (4, 3, 4), 1, "float64"),
        ("n15-float64", (5, 3, 3), 1, "float64"),
        ("n64", (16, 2, 4), 1, "float32"),
        ("n49-around-0", (49, 2), 1, "float32"),
        ("n107-around-0", (107, 1), 1, "float32"),
    )
    for name, shape, axis, dtype in rows:
        stream = draw.stream(f"core/exact-{name}")
        x = exact_inputs(stream.generator(), shape, axis, dtype)
        if name.endswith("around-0"):  # a mean of 0 shows its last bit
            x = x - x.sum(axis=0) / shape[0]
        own = draw.vector(
            f"core/exact-{name}",
            "Mean and variance are numbers that floating point finds without rounding: a port that divides early, sums "
            "squares of x, or multiplies by 1/n.",
            shape,
            x=x,
            axis=axis,
            dtype=dtype,
            clauses={"mean": ("BN-MOM-6", "BN-MOM-2"), "var": ("BN-MOM-6", "BN-MOM-3")},
            exact=("mean", "var"),
        )
        yield own
        order = stream.permutation(np.arange(shape[0])).tolist()
        yield own.but(
            f"exact-{name}-reordered",
            "The same samples in another order: a port whose exactness depends on the order of summation.",
            case=dataclasses.replace(own.case, ranks=(RankInputs(own.case.ranks[0].x[order]),)),
            clauses=own.clauses,
            relations=(
                equal("permutation", own.id, "mean var", "BN-MOM-6", to_the_bit=True),
                parts("permutation", own.id, moved("y", shape, 0, range(shape[0]), order), "BN-NORM-4"),
            ),
        )


def _laws(draw: Draw) -> Iterator[Vector]:
    shape = (6, 3)
    whole = draw.stream("core/law").integers(-64, 64, 18).reshape(shape).astype(np.float64)
    base = draw.vector(
        "core/law",
        "Small integers, with which the laws below begin.",
        shape,
        x=whole,
        epsilon=1.0,
        gamma=[1.5, -0.5, 2],
    )
    yield base

    def of(values: Array, **changes: Any) -> Case:
        return dataclasses.replace(base.case, ranks=(RankInputs(as_dtype(values, "float32")),), **changes)

    for name, by in (("64", 64.0), ("4096", 4096.0), ("2-to-20", 2.0**20), ("minus-2-to-20", -(2.0**20))):
        yield base.but(
            f"law-shift-{name}",
            f"x plus {by:g}, exactly: a port that takes E[x^2] - E[x]^2, or x*scale + shift.",
            case=of(whole + by),
            relations=(equal("shift", base.id, "y var", "BN-NORM-4"),),
        )
    for name, power in (("8", 3), ("2-to-minus-20", -20), ("2-to-20", 20), ("2-to-40", 40)):
        config = dataclasses.replace(base.case.config, epsilon=4.0**power)
        yield base.but(
            f"law-scale-{name}",
            f"x times 2^{power} and epsilon times 4^{power}: every rounding is the same, so y is, to the bit.",
            case=of(whole * 2.0**power, config=config),
            relations=(equal("scale", base.id, "y", "BN-NORM-4", to_the_bit=True),),
        )
    order = draw.stream("core/law-order").permutation(np.arange(6)).tolist()
    yield base.but(
        "law-permuted-samples",
        "Samples in another order: y goes with its sample.",
        case=of(whole[order]),
        relations=(parts("permutation", base.id, moved("y", shape, 0, range(6), order), "BN-NORM-4"),),
    )
    swap = [2, 0, 1]
    gamma, beta = base.case.gamma, base.case.beta
    assert gamma is not None
    assert beta is not None
    pairs = [Pair("mean", "mean", with_take=tuple(swap)), Pair("var", "var", with_take=tuple(swap))]
    yield base.but(
        "law-permuted-channels",
        "Channels in another order with their parameters: a port that mixes the channels of x and of gamma.",
        case=of(whole[:, swap], gamma=gamma[swap], beta=beta[swap]),
        relations=(parts("permutation", base.id, [*moved("y", shape, 1, range(3), swap), *pairs], "BN-NORM-4"),),
    )


def _ordinary(draw: Draw) -> Iterator[Vector]:
    """Shapes, dtypes and options drawn together."""
    for number in range(14):
        stream = draw.stream(f"core/drawn-{number}/shape")
        rank = stream.choice([2, 3, 4])
        axis = stream.integers(1, rank)
        shape = tuple(stream.integers(1, 4 if a == axis else {2: 12, 3: 5, 4: 4}[rank]) for a in range(rank))
        dtype = ("float32", "float64")[number % 2]
        offset = stream.choice([0, 0, 3, 100])
        yield draw.vector(
            f"core/drawn-{number}",
            "An ordinary batch of drawn shape and values, for what no other vector thought of.",
            shape,
            dtype=dtype,
            axis=axis,
            x=stream.normals(shape) + offset,
            epsilon=(1e-5, 1e-3, 1e-2)[stream.integers(0, 3)],
        )
