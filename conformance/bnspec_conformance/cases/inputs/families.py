"""Inputs that are hard for batch normalization, and inputs it must get exactly right.

`hard_families` are float32 arrays on which implementations lose digits, overflow or divide by zero;
`exact_inputs` have statistics that floating point represents, and finds, without any rounding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HARD_FAMILY", "exact_inputs", "hard_families"]

Floats32 = npt.NDArray[np.float32]
Family = tuple[Floats32, Floats32, Floats32, Floats32, float]

#: What the note of a case of a hard family begins with.
HARD_FAMILY = "hard family"

SHAPE = (8, 4, 4, 4)
EPSILON = 1e-5


def hard_families() -> dict[str, Family]:
    """Return every hard family: name to (x, gamma, beta, dy, epsilon).

    Returns
    -------
    dict
        x and dy are float32 of one shape, (8, 4, 4, 4) unless the name's family needs another, channels last; gamma
        in +-[0.5, 1.5], beta 0, dy standard normal. The same arrays on every call.
    """
    made: dict[str, Family] = {}
    for i, (name, (build, epsilon)) in enumerate(_builders().items()):
        rng = np.random.default_rng([20, i])
        with np.errstate(over="ignore"):
            x = np.asarray(build(rng)).astype(np.float32)
        assert np.isfinite(x).all(), name
        gamma = (rng.uniform(0.5, 1.5, x.shape[-1]) * rng.choice([-1, 1], x.shape[-1])).astype(np.float32)
        dy = rng.standard_normal(x.shape).astype(np.float32)
        made[name] = (x, gamma, np.zeros(x.shape[-1], np.float32), dy, epsilon)
    return made


def _builders() -> dict[str, tuple[Callable[[np.random.Generator], Any], float]]:
    def normal(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> Any:
        return rng.standard_normal(shape)

    def constant(values: tuple[float, ...], shape: tuple[int, ...] = SHAPE) -> Callable[[np.random.Generator], Any]:
        return lambda rng: np.broadcast_to(np.array(values), shape)

    def far(ratio: float, std: float = 1.0) -> Callable[[np.random.Generator], Any]:
        signs = np.array([1.0, -1.0, 1.0, -1.0]) * np.array([1.0, 1.0, 0.5, 2.0])
        return lambda rng: std * (normal(rng) + ratio * signs)

    def steps(rng: np.random.Generator) -> Any:
        base = np.array([1.0, -1.0, 1024.0, 2.0**-20])
        return base * (1 + rng.integers(0, 3, SHAPE) * 2.0**-23)

    def tiny(rng: np.random.Generator) -> Any:
        return 1e-20 * normal(rng) * np.array([1.0, 3.0, 0.5, 10.0]) + np.array([0.0, 1e-20, -1e-19, 0.0])

    def denormal(rng: np.random.Generator) -> Any:
        return rng.integers(-(2**23) + 1, 2**23, SHAPE) * 2.0**-149

    def outlier(size: float) -> Callable[[np.random.Generator], Any]:
        def build(rng: np.random.Generator) -> Any:
            x = normal(rng)
            for c in range(4):
                x[c, c, -c, c] = size * (-1) ** c
            return x

        return build

    def alternating(rng: np.random.Generator) -> Any:
        signs = (-1.0) ** np.arange(np.prod(SHAPE[:3])).reshape(*SHAPE[:3], 1)
        return 1e5 * signs + normal(rng)

    def ramp(rng: np.random.Generator) -> Any:
        line = np.arange(np.prod(SHAPE[:3])).reshape(*SHAPE[:3], 1)
        return 1e5 + line * np.array([1.0, 0.5, -1.0, 0.015625])

    def first_row_far(rng: np.random.Generator) -> Any:
        x = normal(rng)
        x[0] += 1e6
        return x

    def near_max(rng: np.random.Generator) -> Any:
        return np.where(rng.random(SHAPE) < 0.5, 3e38, -2.9e38) * (1 + 1e-3 * rng.random(SHAPE))

    pair = np.array([1e6, -3e4, 1000.0, 16777214.0])
    gap = np.array([0.0625, 0.001953125, 0.00006103515625, 1.0])
    table: dict[str, tuple[Callable[[np.random.Generator], Any], float]] = {
        "ordinary": (
            lambda rng: normal(rng) * np.array([1.0, 2.0, 0.5, 1.0]) + np.array([0.0, 1.0, -0.5, 3.0]),
            EPSILON,
        )
    }
    for power in range(2, 7):
        table[f"mean_over_std_1e{power}"] = (far(10.0**power), EPSILON)
    table["mean_over_std_1e4_small"] = (far(1e4, 1e-4), EPSILON)
    table["mean_over_std_1e4_large"] = (far(1e4, 1e6), EPSILON)
    table["constant"] = (constant((0.0, 1.0, 3.14159, -0.1)), EPSILON)
    table["constant_big"] = (constant((1e6, 123456.7, -7e5, 16777217.0)), EPSILON)
    table["constant_n3"] = (constant((0.1, 1 / 3, 1e8, -1e-8), (3, 1, 1, 4)), EPSILON)
    for epsilon in (1e-5, 1e-12):
        table[f"one_ulp_eps{epsilon:.0e}"] = (steps, epsilon)
        table[f"tiny_1e-20_eps{epsilon:.0e}"] = (tiny, epsilon)
    table["denormal"] = (denormal, EPSILON)
    table["denormal_and_normal"] = (lambda rng: normal(rng) * np.array([1e-42, 1e-38, 1e-20, 1.0]), EPSILON)
    for size in (1e15, 1e18, 1e19, 1e30):
        table[f"huge_{size:.0e}"] = (_scaled(size), EPSILON)
    table["near_float_max"] = (near_max, EPSILON)
    table["huge_constant"] = (constant((3e38, -3.4e38, 1e38, 3.4028234e38)), EPSILON)
    table["mixed_channels"] = (lambda rng: normal(rng) * np.array([1e-6, 1.0, 1e6, 1e12]) + 1e-3, EPSILON)
    table["outlier_10000"] = (outlier(1e4), EPSILON)
    table["outlier_1e+08"] = (outlier(1e8), EPSILON)
    table["lognormal"] = (lambda rng: np.exp(6 * normal(rng)), EPSILON)
    table["alternating"] = (alternating, EPSILON)
    table["ramp"] = (ramp, EPSILON)
    table["first_row_far"] = (first_row_far, EPSILON)
    table["two_values_far"] = (lambda rng: np.stack([pair, pair + gap]).reshape(2, 1, 1, 4), EPSILON)
    long = (16, 16, 16, 4)
    table["long_offset_100"] = (lambda rng: normal(rng, long) + np.array([100.0, -1000.0, 100.0, -1000.0]), EPSILON)
    return table


def _scaled(size: float) -> Callable[[np.random.Generator], Any]:
    return lambda rng: size * (rng.standard_normal(SHAPE) + np.array([0.0, 1.0, -3.0, 0.5]))


def exact_inputs(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    axis: int,
    dtype: npt.DTypeLike,
    virtual_batch_size: int | None = None,
) -> npt.NDArray[Any]:
    """Inputs whose mean and variance are found without rounding, in any order of summation.

    Each channel is ``2**k * (m + t_j + e_i)`` with integers: m the channel's centre, t_j the offset of group j, e_i the
    deviation within a group, a random order of one multiset per channel. Offsets and deviations both sum to 0 and
    have a sum of squares that is their number times an integer (or their number is a power of two, and the quotient
    a dyadic rational), so mean and variance are representable for every group and for the whole batch, n a power of
    two or not. All integers stay below 2**8 and every sum of them, or of their squares, below 2**24 for up
    to 2**15 elements: no partial sum is rounded in float32, nor a value in bfloat16. Only the final quotients must be
    true divisions.

    Parameters
    ----------
    rng : Generator
    shape : tuple of int
        Rank >= 2.
    axis : int
        Channel axis.
    dtype : dtype
        float16, bfloat16, float32 or float64.
    virtual_batch_size : int or None
        Samples per ghost group; must divide ``shape[0]``.

    Returns
    -------
    array
        Of the given shape and dtype.

    References
    ----------
    oneDNN, benchdnn, ``tests/benchdnn/bnorm``: inputs with statistics that are exact by construction.
    """
    axis %= len(shape)
    channels = shape[axis]
    samples = shape[0] if axis else 1
    groups = 1 if virtual_batch_size is None else samples // virtual_batch_size
    rest = tuple(s for i, s in enumerate(shape) if i not in (0, axis)) if axis else shape[1:]
    per_group = (samples // max(groups, 1)) * int(np.prod(rest, dtype=np.int64))
    values = np.empty((groups, channels, per_group))
    for c in range(channels):
        centre, unit = int(rng.integers(-48, 49)), 2.0 ** int(rng.integers(-4, 3))
        offsets, deviations = 2 * _balanced(rng, groups), _balanced(rng, per_group)
        for g in range(groups):
            values[g, c] = unit * (centre + offsets[g] + rng.permutation(deviations))
    if axis == 0:
        return values.reshape(channels, *rest).astype(dtype)
    blocks = values.reshape(groups, channels, samples // max(groups, 1), *rest).swapaxes(1, 2)
    return np.moveaxis(blocks.reshape(samples, channels, *rest), 1, axis).astype(dtype, order="C")


def _balanced(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
    """n integers in [-5, 5] that sum to 0 and whose mean square is an integer or, for n a power of two, dyadic."""
    if n < 2:
        return np.zeros(n, np.int64)
    if n & (n - 1) == 0:
        half = rng.integers(-5, 6, n // 2)
        return rng.permutation(np.concatenate([half, -half]))
    # Every block sums to 0 and has a mean square of 2; lengths 3 and 4 (and one 5) reach every n >= 3.
    triple, four, five = (1, 1, -2), (0, 0, 2, -2), (2, -2, 1, -1, 0)
    scale = int(rng.integers(1, 3))
    blocks: list[int] = list(five) if n == 5 else []
    while len(blocks) < n:
        left = n - len(blocks)
        blocks.extend(four if left % 3 and left >= 4 else triple)
    return scale * rng.permutation(np.array(blocks, dtype=np.int64)) * int(rng.choice([-1, 1]))
