"""Vectors of formats: 16 bits, float64, and where each number is rounded."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Case, RankInputs, dtype_named
from bnspec_conformance.cases.inputs.families import exact_inputs
from bnspec_conformance.cases.outputs import proving
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.stream import as_dtype
from bnspec_conformance.vectors.vector import Vector

__all__ = ["vectors"]

_HALF_PRECISION = ("float16", "bfloat16")


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "precision"."""
    for dtype in _HALF_PRECISION:
        yield from _narrow(draw, dtype)
        yield from _long(draw, dtype)
        yield _ties(draw, dtype)
        yield _wide_dy(draw, dtype)
    yield from _wide(draw)


def _narrow(draw: Draw, dtype: str) -> Iterator[Vector]:
    rows: tuple[tuple[str, tuple[int, ...], dict[str, Any], str], ...] = (
        ("matrix", (6, 3), {}, "y, dx and ydot are rounded once, at the end"),
        ("images", (2, 2, 2, 3), {}, "channels first"),
        ("ghost", (4, 2), {"virtual_batch_size": 2}, "in groups"),
        ("mask", (5, 2), {"masks": ([True, False, True, True, True],)}, "with a mask"),
        ("no-parameters", (4, 2), {"center": False, "scale": False}, "without parameters"),
    )
    for name, shape, options, what in rows:
        rounded: dict[str, tuple[str, ...]] = {"y": ("BN-PREC-2",), "dx": ("BN-PREC-3",), "ydot": ("BN-PREC-3",)}
        yield draw.vector(
            f"precision/{dtype}-{name}",
            f"{dtype}, {what}: a port that rounds the statistics, scale or shift to 16 bits.",
            shape,
            dtype=dtype,
            vjp=True,
            jvp=True,
            clauses=rounded,
            **options,
        )
    yield draw.vector(
        f"precision/{dtype}-far",
        f"{dtype} values far from zero: x - mean has few digits, none of which may be lost.",
        (8, 2),
        dtype=dtype,
        x=draw.stream(f"precision/{dtype}-far/x").normals((8, 2)) * 4 + np.array([500.0, -1000.0]),
        vjp=True,
        clauses={"y": ("BN-PREC-2",), "dx": ("BN-PREC-3",)},
    )
    large = np.array(
        [[-40000, 60000], [30000, 60000], [60000, 30000], [-40000, -40000], [30000, 60000], [60000, 30000]]
    )
    yield draw.vector(
        f"precision/{dtype}-overflow",
        f"{dtype} values whose sums and squares are beyond 65504.",
        (6, 2),
        dtype=dtype,
        x=large,
        clauses=proving("y mean var", "BN-PREC-2"),
    )
    stream = draw.stream(f"precision/{dtype}-exact")
    yield draw.vector(
        f"precision/{dtype}-exact",
        f"{dtype} values with exact statistics.",
        (6, 2, 2),
        dtype=dtype,
        x=exact_inputs(stream.generator(), (6, 2, 2), 1, dtype_named(dtype)),
        clauses=proving("mean var", "BN-MOM-6", "BN-PREC-2"),
        exact=("mean", "var"),
    )
    yield draw.vector(
        f"precision/{dtype}-constant",
        f"{dtype} constants, and a beta that has to be rounded to {dtype}, ties to even.",
        (3, 3),
        dtype=dtype,
        x=np.array([0.1, -300.0, 1 / 3]),
        beta=[1 + 2.0**-11, 1 + 3 * 2.0**-8, 0.1],
        clauses={"y": ("BN-NORM-5", "BN-PREC-2")},
        exact=("y", "mean", "var"),
    )


def _wide_dy(draw: Draw, dtype: str) -> Vector:
    """Return a float32 dy for an x of 16 bits."""
    base = draw.vector(
        f"precision/{dtype}-wide-dy",
        f"{dtype} x with a dy of float32, whose last digits {dtype} does not hold: a port that rounds dy first.",
        (4, 2),
        dtype=dtype,
        x=np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 1.0], [2.0, 3.0]]),
        outputs=("dx", "dgamma", "dbeta"),
        clauses=proving("dx dgamma dbeta", "BN-PREC-3"),
        vjp=True,
    )
    dy = (1 + 2.0**-16 * np.arange(8)).reshape(4, 2).astype(np.float32)
    return dataclasses.replace(base, case=dataclasses.replace(base.case, ranks=(RankInputs(base.case.ranks[0].x, dy),)))


def _long(draw: Draw, dtype: str) -> Iterator[Vector]:
    """More elements than 16 bits can count up to."""
    n = 2311 if dtype == "float16" else 515
    x = np.where(draw.stream(f"precision/{dtype}-long/x").integers(0, 2, n) == 1, 2.0, 1.0).reshape(n, 1)
    yield draw.vector(
        f"precision/{dtype}-long",
        f"{n} values of 1 and 2, and a dy of ones: a sum kept in {dtype} stops growing.",
        (n, 1),
        dtype=dtype,
        x=x,
        dy=np.ones((n, 1)),
        outputs=("count", "mean", "var", "dgamma", "dbeta"),
        clauses=proving("mean var", "BN-PREC-2") | proving("dgamma dbeta", "BN-PREC-3"),
    )


def _ties(draw: Draw, dtype: str) -> Vector:
    """y halfway between two numbers: exactly gamma*x + beta, since 1/sqrt(0.75 + 0.25) is 1."""
    ulp = 2.0**-10 if dtype == "float16" else 2.0**-7
    even, odd = 1 + ulp / 2, 1 + 3 * ulp / 2
    return draw.vector(
        f"precision/{dtype}-ties",
        f"y exactly between two numbers of {dtype}, and just off: a port that truncates, or rounds ties away from 0.",
        (2, 4),
        dtype=dtype,
        x=np.array([[0.0] * 4, [2.0**-12] * 4]),
        gamma=[2.0**-4, -(2.0**-4), 2.0**-4, -(2.0**-4)],
        beta=[even, odd, -even, -odd],
        epsilon=0.25,
        mode="inference",
        state={"mean": 0.0, "var": 0.75},
        clauses={"y": ("BN-PREC-2",)},
        exact=("y",),
    )


def _wide(draw: Draw) -> Iterator[Vector]:
    near = np.array([[1.0], [1 + 2.0**-20], [1 - 2.0**-20], [1.0]])
    for dtype in ("float32", "float64"):
        yield draw.vector(
            f"precision/{dtype}-near",
            f"{dtype} values within 2^-20 of 1 and epsilon 2^-60: the deviations are all there is.",
            (4, 1),
            dtype=dtype,
            x=near,
            epsilon=2.0**-60,
            clauses=proving("y mean var", "BN-PREC-1"),
        )
    yield draw.vector(
        "precision/float64-digits",
        "float64 values that differ from the eleventh digit on: a port that casts x to float32 sees a constant.",
        (5, 2),
        dtype="float64",
        x=1.0 + draw.stream("precision/float64-digits/x").normals((5, 2)) * 2.0**-36,
        epsilon=2.0**-80,
        vjp=True,
        clauses=proving("y mean var", "BN-PREC-1"),
    )
    yield draw.vector(
        "precision/float64-range",
        "float64 values beyond the range of float32.",
        (4, 2),
        dtype="float64",
        x=draw.stream("precision/float64-range/x").normals((4, 2)) * np.array([2.0**300, 2.0**-300]),
        epsilon=2.0**-200,
        clauses=proving("y mean var", "BN-PREC-1"),
    )
    yield from _parameters(draw)


def _parameters(draw: Draw) -> Iterator[Vector]:
    """gamma and beta of other dtypes than x: their gradients have the parameters' dtype."""
    for x_dtype, gamma, beta in (
        ("float32", "float64", "float16"),
        ("float16", "float32", "float16"),
        ("float16", "float16", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float64", "float32", "float64"),
    ):
        name = f"precision/{x_dtype}-gamma-{gamma}-beta-{beta}"
        case: Case = draw.case(name, (5, 2), dtype=x_dtype, vjp=True)
        rank = case.ranks[0]
        assert case.gamma is not None
        assert case.beta is not None
        own = dataclasses.replace(
            case,
            ranks=(RankInputs(rank.x, rank.dy),),
            gamma=as_dtype(case.gamma, gamma),
            beta=as_dtype(case.beta, beta),
        )
        yield Vector(
            id=name,
            why=f"{x_dtype} x, {gamma} gamma, {beta} beta: each gradient has its parameter's dtype, and y has x's.",
            case=own,
            outputs=("y", "dx", "dgamma", "dbeta"),
            clauses=proving("dgamma dbeta", "BN-PREC-3"),
        )
