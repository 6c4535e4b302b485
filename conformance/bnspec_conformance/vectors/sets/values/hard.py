"""Vectors of the hard families: inputs on which implementations lose digits, overflow or divide by zero.

The families are those of `bnspec_conformance.cases.inputs.families`, smaller and made by plain arithmetic.
"""

from collections.abc import Callable, Iterator

import numpy as np

from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.stream import Stream
from bnspec_conformance.vectors.vector import Vector

__all__ = ["vectors"]

SHAPE = (4, 2, 2, 4)
_COUNT = 16

_SUBNORMAL = "a device that computes in float32 may flush subnormal numbers"
_SQUARES = "the squares overflow in float32"
_RANGE = "the range overflows in float32"
_CANCELS = "dx is what remains of terms 1e7 times as large"


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "hard"."""
    for name, (build, epsilon, why, beyond) in _table().items():
        key = f"hard/{name}"
        with np.errstate(over="ignore"):
            x = np.asarray(build(draw.stream(f"{key}/x")), dtype=np.float64)
        shape = x.shape if x.ndim == 4 else SHAPE
        case = draw.case(key, shape, x=x, vjp=True, axis=3, epsilon=epsilon, beta=np.zeros(4))
        yield Vector(
            id=key,
            why=why,
            case=case,
            outputs=("y", "mean", "var", "dx"),
            hard=True,
            beyond_float32=beyond,
            notes=f"Beyond float32 arithmetic: {beyond}." if beyond else "",
        )


_Row = tuple[Callable[[Stream], np.ndarray], float, str, str]


def _table() -> dict[str, _Row]:
    def normal(s: Stream) -> np.ndarray:
        return s.normals(SHAPE)

    def per_channel(*values: float) -> np.ndarray:
        return np.array(values)

    table: dict[str, _Row] = {}

    def row(
        name: str, build: Callable[[Stream], np.ndarray], why: str, beyond: str = "", epsilon: float = 1e-5
    ) -> None:
        table[name] = (build, epsilon, why, beyond)

    row(
        "ordinary",
        lambda s: normal(s) * per_channel(1, 2, 0.5, 1) + per_channel(0, 1, -0.5, 3),
        "An ordinary batch, by the bound of the hard ones.",
    )
    ratios = per_channel(1, -1, 0.5, -2)
    for power in range(2, 7):
        row(
            f"mean-over-std-1e{power}",
            lambda s, p=power: normal(s) + 10.0**p * ratios,  # type: ignore[misc]
            f"Means 1e{power} deviations from zero: E[x^2] - E[x]^2 is off by (1e{power})^2 roundoffs.",
        )
    row("mean-over-std-1e4-small", lambda s: (normal(s) + 1e4 * ratios) * 2.0**-13, "The same with deviations of 1e-4.")
    row("mean-over-std-1e4-large", lambda s: (normal(s) + 1e4 * ratios) * 2.0**20, "The same with deviations of 1e6.")
    for name, values, shape, beyond in (
        ("constant", (0.0, 1.0, 3.14159, -0.1), SHAPE, ""),
        ("constant-big", (1e6, 123456.7, -7e5, 16777217.0), SHAPE, ""),
        ("constant-n3", (0.1, 1 / 3, 1e8, -1e-8), (3, 1, 1, 4), ""),
        ("constant-huge", (3e38, -3.4e38, 1e38, 3.4028234e38), SHAPE, ""),
    ):
        row(
            name,
            lambda s, v=values, n=shape: np.broadcast_to(np.array(v), n),  # type: ignore[misc]
            "Constants: a mean that is one roundoff off leaves a variance, and y far from beta.",
            beyond,
        )
    base = per_channel(1, -1, 1024, 2.0**-20)
    for epsilon in (1e-5, 1e-12):
        row(
            f"one-ulp-epsilon-{epsilon:.0e}",
            lambda s: base * (1 + s.integers(0, 3, 4 * _COUNT).reshape(SHAPE) * 2.0**-23),
            "Values one ulp apart: the deviations are roundoffs of the values.",
            epsilon=epsilon,
        )
        row(
            f"tiny-1e-20-epsilon-{epsilon:.0e}",
            lambda s: 1e-20 * normal(s) * per_channel(1, 3, 0.5, 10) + per_channel(0, 1e-20, -1e-19, 0),
            "Values of 1e-20: the squares are below float32's smallest normal number.",
            epsilon=epsilon,
        )
    row(
        "subnormal",
        lambda s: s.integers(-(2**23) + 1, 2**23, 4 * _COUNT).reshape(SHAPE) * 2.0**-149,
        "Subnormal values: gamma/sqrt(epsilon) still makes numbers of them.",
        _SUBNORMAL,
    )
    row(
        "subnormal-and-normal",
        lambda s: normal(s) * per_channel(2.0**-139, 2.0**-126, 2.0**-66, 1),
        "Channels of subnormal, just normal and ordinary values side by side.",
        _SUBNORMAL,
    )
    for name, size, beyond in (("15", 1e15, ""), ("18", 1e18, ""), ("19", 1e19, _SQUARES), ("30", 1e30, _SQUARES)):
        row(
            f"huge-1e{name}",
            lambda s, v=size: (normal(s) + per_channel(0, 1, -3, 0.5)) * v,  # type: ignore[misc]
            f"Values of 1e{name}: sums of squares near or beyond the largest float32.",
            beyond,
        )
    row(
        "near-float-max",
        lambda s: (
            np.where(s.integers(0, 2, 4 * _COUNT).reshape(SHAPE) == 1, 3e38, -2.9e38)
            * (1 + s.uniforms(0, 2.0**-10, SHAPE))
        ),
        "Values near the largest float32, of both signs: x - mean overflows in float32.",
        _RANGE,
    )
    row(
        "mixed-channels",
        lambda s: normal(s) * per_channel(2.0**-20, 1, 2.0**20, 2.0**40) + 0.001,
        "Channels of very different size: a port that shares a scale between channels.",
    )
    for name, size in (("1e4", 1e4), ("1e8", 1e8)):
        row(f"outlier-{name}", lambda s, v=size: _outliers(normal(s), v), f"One outlier of {name} in each channel.")  # type: ignore[misc]
    row(
        "wide",
        lambda s: np.ldexp(s.uniforms(1, 2, SHAPE), s.integers(-12, 13, 4 * _COUNT).reshape(SHAPE)),
        "Positive values from 2^-12 to 2^13, as of a lognormal distribution.",
    )
    signs = np.where(np.arange(_COUNT) % 2 == 0, 1.0, -1.0).reshape(4, 2, 2, 1)
    line = np.arange(_COUNT, dtype=np.float64).reshape(4, 2, 2, 1)
    row("alternating", lambda s: 1e5 * signs + normal(s), "+-1e5 in turn: partial sums that swing.")
    row("ramp", lambda s: 1e5 + line * per_channel(1, 0.5, -1, 0.015625), "A slope on a height of 1e5.")
    row(
        "first-sample-far",
        lambda s: _first_far(normal(s)),
        "The first sample lies 1e6 away: a shift by the first element.",
    )
    pair, gap = per_channel(1e6, -3e4, 1000, 16777214), per_channel(0.0625, 2.0**-9, 2.0**-14, 1)
    row(
        "two-values-far",
        lambda s: np.stack([pair, pair + gap]).reshape(2, 1, 1, 4),
        "Two neighbouring values far from zero: n = 2 and nothing to average over.",
        _CANCELS,
    )
    row(
        "long-offset-100",
        lambda s: s.normals((16, 4, 4, 4)) + per_channel(100, -1000, 100, -1000),
        "256 elements per channel around 100 and -1000: errors of long sums add up.",
    )
    return table


def _outliers(x: np.ndarray, size: float) -> np.ndarray:
    for c in range(4):
        x[c, c % 2, c // 2, c] = size if c % 2 == 0 else -size
    return x


def _first_far(x: np.ndarray) -> np.ndarray:
    x[0] += 1e6
    return x
