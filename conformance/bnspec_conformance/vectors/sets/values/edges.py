"""Vectors at the edges: no element, one element, constants, tiny, far and not finite values."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from bnspec_conformance.cases.case import RankInputs
from bnspec_conformance.cases.outputs import proving
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import moved, parts
from bnspec_conformance.vectors.vector import Pair, Vector

__all__ = ["vectors"]

_CONSTANT = {"mean": ("BN-MOM-5",), "var": ("BN-MOM-4", "BN-MOM-5"), "y": ("BN-NORM-5",)}
_EXACT = ("y", "mean", "var")


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the edges of the family "core"."""
    yield from _sizes(draw)
    yield from _constants(draw)
    yield from _magnitudes(draw)
    yield from _not_finite(draw)


def _sizes(draw: Draw) -> Iterator[Vector]:
    empty: tuple[tuple[str, tuple[int, ...], int], ...] = (
        ("no-samples", (0, 3), 1),
        ("no-pixels", (2, 3, 0), 1),
        ("no-channels", (4, 0), 1),
        ("no-channels-last", (2, 3, 0), -1),
        ("nothing", (0, 0, 2), 1),
    )
    for name, shape, axis in empty:
        yield draw.vector(
            f"core/{name}",
            "An extent of 0: a port that divides 0 by 0, or refuses what has no elements.",
            shape,
            axis=axis,
            clauses={"y": ("BN-SHAPE-4",) if "channels" in name or name == "nothing" else ("BN-MASK-5",)},
            exact=_EXACT,
        )
    single: dict[str, tuple[int, ...]] = {"one-sample": (1, 3), "one-element": (1, 1), "one-of-each": (1, 2, 1, 1)}
    for name, shape in single.items():
        yield draw.vector(
            f"core/{name}",
            "One element per channel: y is beta, and it is no error; a port that divides by n - 1.",
            shape,
            clauses=_CONSTANT,
            exact=_EXACT,
        )
    yield draw.vector("core/one-channel", "C = 1: a port that takes a lone channel for a scalar.", (4, 1, 2))
    yield draw.vector("core/two-elements", "n = 2, the smallest count with a variance.", (2, 3))
    yield draw.vector(
        "core/many-elements",
        "300 elements per channel: a port that keeps the count, or a sum, in a narrow type.",
        (300, 2),
        x=draw.stream("core/many-elements").normals((300, 2)) + 5.0,
    )
    yield draw.vector(
        "core/count-2051",
        "2051 elements: a port whose count is a number of 16 bits, of which none is 2051.",
        (2051, 1),
        x=np.where(draw.stream("core/count-2051").integers(0, 2, 2051) == 1, 2.0, 1.0).reshape(2051, 1),
        outputs=("count", "mean", "var"),
    )


def _constants(draw: Draw) -> Iterator[Vector]:
    rows: tuple[tuple[str, int, list[float], str], ...] = (
        ("thirds", 3, [1 / 3, 0.1, -0.7], "float32"),
        ("sevens", 7, [1 / 7, 3.14159, -1e-3], "float32"),
        ("large", 5, [16777217.0, 123456.7, -7e5], "float32"),
        ("huge", 6, [3e38, -3.4e38, 1e30], "float32"),
        ("tiny", 6, [1e-30, -1e-38, 1e-20], "float32"),
        ("zero", 4, [0.0, -0.0, 0.0], "float32"),
        ("float64", 7, [1 / 3, 1e15 + 0.1, -1e-300], "float64"),
        ("float64-tenths", 3, [0.1, 0.7, -0.1], "float64"),
        ("float64-tenths-6", 6, [0.1, 0.7, 2.3], "float64"),
        ("float64-n5", 5, [1e15 + 0.1, 1 / 7, 0.1], "float64"),
    )
    for name, n, values, dtype in rows:
        yield draw.vector(
            f"core/constant-{name}",
            "Constant channels: the mean is the constant, the variance 0 and y beta, to the bit: a port whose mean of "
            "equal numbers is another number.",
            (n, 3),
            x=np.array(values),
            dtype=dtype,
            clauses=_CONSTANT,
            exact=_EXACT,
        )
    yield draw.vector(
        "core/constant-subnormal",
        "A channel of one subnormal number beside others: a port that flushes it to 0 without saying so.",
        (4, 3),
        x=np.array([2.0**-149, -(2.0**-130), 3 * 2.0**-140]),
        clauses=_CONSTANT,
        exact=_EXACT,
    )
    x = draw.stream("core/constant-beside-others").normals((5, 3))
    x[:, 1] = 0.1
    yield draw.vector(
        "core/constant-beside-others", "A constant channel between two that are not.", (5, 3), x=x, clauses={}
    )


def _magnitudes(draw: Draw) -> Iterator[Vector]:
    def of(name: str) -> np.ndarray:
        return draw.stream(f"core/{name}").normals((6, 3))

    for name, x, why in (
        ("subnormal", of("subnormal") * 2.0**-140, "Subnormal values: a port that flushes them to 0."),
        ("far-1e4", of("far-1e4") + 1e4, "Mean 1e4 deviations from zero: a port that takes E[x^2] - E[x]^2."),
        (
            "far-1e6",
            of("far-1e6") + 1e6,
            "Mean 1e6 deviations from zero: a port that keeps the mean in one float32 number.",
        ),
        ("large-1e15", of("large-1e15") * 1e15, "Values of 1e15: squares near 1e30 that float32 holds."),
        ("large-1e30", of("large-1e30") * 1e30, "Values of 1e30: a port whose squares overflow where W is float64."),
        ("small-1e-15", of("small-1e-15") * 1e-15, "Values of 1e-15: epsilon is all there is in the deviation."),
    ):
        yield draw.vector(f"core/{name}", why, (6, 3), x=x, clauses={"var": ("BN-MOM-3", "BN-MOM-4")})
    outlier = of("outlier")
    outlier[2, 1] = 1e6
    yield draw.vector("core/outlier", "One value of 1e6 among ordinary ones, in one channel.", (6, 3), x=outlier)
    yield draw.vector(
        "core/far-float64",
        "float64 values 1e9 deviations from zero: a port that computes float64 input in float32, or in one pass.",
        (6, 3),
        dtype="float64",
        x=of("far-float64") + 1e9,
    )


def _not_finite(draw: Draw) -> Iterator[Vector]:
    shape = (4, 3)
    base = draw.vector("core/isolated", "Ordinary channels, the first of which the next ones spoil.", shape, vjp=True)
    yield base
    wrong: tuple[tuple[str, float, str], ...] = (
        ("nan", np.nan, "A NaN"),
        ("inf", np.inf, "An infinity"),
        ("minus-inf", -np.inf, "A negative infinity"),
        ("large", 12345.0, "Another value"),
    )
    for name, value, what in wrong:
        x = base.case.ranks[0].x.copy()
        x[1, 0] = value
        rest = [*moved("y dx", shape, 1, [1, 2]), *moved("mean var", (1, 3), 1, [1, 2])]
        rest += [Pair(v, v, take=(1, 2), with_take=(1, 2)) for v in ("dgamma", "dbeta")]
        yield base.but(
            f"isolated-{name}",
            f"{what} in channel 0 changes no bit of another channel"
            + (", and makes all of its own y NaN." if not np.isfinite(value) else "."),
            case=dataclasses.replace(base.case, ranks=(RankInputs(x, base.case.ranks[0].dy),)),
            clauses={} if np.isfinite(value) else proving("y mean var dx", "BN-MOM-9"),
            relations=(parts("isolation", base.id, rest, "BN-MOM-9", to_the_bit=True),),
        )
