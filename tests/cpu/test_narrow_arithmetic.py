"""Elementwise passes over 16 bits: in float32, and in float64 wherever float32 does not do.

What float64 makes of the same numbers is what the compiled kernels make of them as an array of float64.
"""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec_backends import cpu
from bnspec_backends.cpu.workers import Workers

if importlib.util.find_spec("numba") is None:
    pytest.skip("numba is not installed", allow_module_level=True)

KERNELS: Any = cpu.make("compiled")
GROUP = bnspec._types.Groups(0, 1)
DTYPES = ("bfloat16", "float16")
LEAST = 2.0**-126  # normal number of float32


def dtype_of(name: str) -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


def every_value(name: str) -> Any:
    """All numbers of 16 bits, infinities and NaN too."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype_of(name))


def widened(values: Any) -> Any:
    with np.errstate(all="ignore"):  # some are signalling NaN
        return values.astype(np.float64)


def rounded(values: Any, name: str) -> Any:
    with np.errstate(all="ignore"):
        return values.astype(np.float32).astype(dtype_of(name))


def rows(*values: float) -> Any:
    """One number for each channel of one group."""
    return np.asarray(values, np.float64)[None, :]


def same(got: Any, wanted: Any) -> Any:
    """Return for each element whether it is the same number, the sign of 0 included, or NaN in both."""
    nan = np.isnan(widened(got))
    return np.where(nan, np.isnan(widened(wanted)), got.view(np.uint16) == wanted.view(np.uint16))


def check(got: Any, wide: Any, terms: Any, name: str) -> None:
    """Compare 16 bits with float64 results whose terms have these sizes: roundoffs of float32 and one of 16 bits."""
    wanted = widened(rounded(wide, name))
    finite = np.isfinite(wanted)
    got = widened(got)
    least, most = {"bfloat16": (2.0**-133, 2.0**128), "float16": (2.0**-24, 65520.0)}[name]
    u = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[name]
    slack = 8 * 2.0**-24 * np.where(np.isfinite(terms), terms, 0) + 2.0**-148
    assert (np.isnan(got) == np.isnan(wanted)).all()
    with np.errstate(invalid="ignore"):
        apart = np.abs(got - wide)
    near = apart <= np.maximum(u * np.abs(wide), least / 2) + 2 * slack
    edge = np.abs(np.abs(wide) - most) <= 2 * u * most  # rounds to the largest number or to infinity
    assert (near | ~finite | edge)[~np.isnan(wanted)].all()
    assert (got == wanted)[~finite & ~edge & ~np.isnan(wanted)].all()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0 - 2.0**-9, 2.0**-20, 65504.0, 3e38, 2.0**-126])
def test_results_are_rounded_to_the_nearest_with_ties_to_even(name: str, shift: float) -> None:
    """By a sum that float32 holds exactly, or rounds: what is rounded to 16 bits is the float32 number."""
    x = every_value(name)[None]
    with np.errstate(all="ignore"):
        wanted = (x.astype(np.float32) + np.float32(shift)).astype(dtype_of(name))
    assert same(KERNELS.normalize(x, rows(0), rows(1), rows(shift), GROUP), wanted).all()


def factors_of_every_size(number: int) -> Any:
    """Factors of some channels, from 2^-140 to 2^140; some are 0."""
    rng = np.random.default_rng(5)
    sizes = 2.0 ** rng.uniform(-140, 140, (number, 12)) * rng.choice([-1.0, 1.0], (number, 12))
    sizes[rng.random(sizes.shape) < 0.2] = 0.0
    sizes[:, :4] = 2.0 ** rng.uniform(-4, 4, (number, 4))
    return [v[None] for v in sizes]


@pytest.mark.parametrize("name", DTYPES)
def test_every_value_is_normalized_within_float32_of_float64(name: str) -> None:
    centre, scale, shift = factors_of_every_size(3)
    x = np.stack([every_value(name)] * scale.size)
    got = KERNELS.normalize(x, centre, scale, shift, GROUP)
    wide = KERNELS.normalize(widened(x), centre, scale, shift, GROUP)
    with np.errstate(all="ignore"):
        product = np.abs((widened(x) - centre.T) * scale.T)
    check(got, wide, product + np.abs(shift.T), name)


@pytest.mark.parametrize("name", DTYPES)
def test_every_value_is_differentiated_within_float32_of_float64(name: str) -> None:
    centre, a, b, c = factors_of_every_size(4)
    x = np.stack([every_value(name)] * a.size)
    dy = np.random.default_rng(6).permuted(x.view(np.uint16), axis=1).view(x.dtype)
    got = KERNELS.grad_input(dy, x, centre, a, b, c, GROUP, None)
    wide = KERNELS.grad_input(widened(dy), widened(x), centre, a, b, c, GROUP, None)
    with np.errstate(all="ignore"):
        terms = np.abs(a.T * widened(dy)) + np.abs((widened(x) - centre.T) * b.T) + np.abs(c.T)
    check(got, wide, terms, name)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(
    ("centre", "scale", "shift"),
    [
        (0, 1e-40, 1.0), (0, 2.0**-127, 0), (0, 1e39, 0), (0, 1, 1e-40), (0, 1, 1e39), (0, 1, np.inf), (0, 1, np.nan),
        (0, np.inf, 0), (0, np.nan, 0), (1e39, 1e-39, 1), (np.inf, 1, 0), (np.nan, 1, 0), (-1e300, 1e-300, 2),
        (0, 0, 1e-42), (1e-300, 1, 0),
    ],
)  # fmt: skip
def test_factors_that_float32_does_not_hold_are_taken_in_float64(
    name: str, centre: Any, scale: Any, shift: Any
) -> None:
    x = every_value(name)[None]
    factors = [rows(v) for v in (centre, scale, shift)]
    wide = rounded(KERNELS.normalize(widened(x), *factors, GROUP), name)
    assert same(KERNELS.normalize(x, *factors, GROUP), wide).all()
    dy, one = x[:, ::-1].copy(), rows(0.5)
    dx = KERNELS.grad_input(dy, x, rows(centre), one, rows(scale), rows(shift), GROUP, None)
    wide = KERNELS.grad_input(widened(dy), widened(x), rows(centre), one, rows(scale), rows(shift), GROUP, None)
    if (centre, scale) != (1e-300, 1):  # a centre that is 0 in float32 is no reason for float64
        assert same(dx, rounded(wide, name)).all()


def test_what_overflows_on_the_way_is_made_in_float64() -> None:
    """The difference, the product, and terms of opposite sign: none of the results is infinite."""
    dtype, largest = dtype_of("bfloat16"), float(np.finfo(np.float32).max) * (1 - 2.0**-8)
    x = np.tile(np.asarray([largest, -largest], dtype), (3, 40))
    centre, scale, shift = rows(-3e38, 0, 3e38), rows(2.0**-100, 4.0, 2.0**-2), rows(0, -3e38, 0)
    got = KERNELS.normalize(x, centre, scale, shift, GROUP)
    wide = KERNELS.normalize(widened(x), centre, scale, shift, GROUP)
    assert same(got, rounded(wide, "bfloat16")).all()
    assert np.isfinite(got[[0, 2]].astype(float)).all()
    dy = np.tile(np.asarray([2.0**126, -(2.0**126)], dtype), (1, 40))
    x = np.tile(np.asarray([2.0**60, -(2.0**60)], dtype), (1, 40))
    dx = KERNELS.grad_input(dy, x, rows(0), rows(16.0), rows(-(2.0**70)), rows(1.0), GROUP, None)
    assert (dx.astype(float) == 0).all()


@pytest.mark.parametrize("name", DTYPES)
def test_dx_of_few_elements_is_float64(name: str) -> None:
    """Of two elements all but the part of epsilon cancels."""
    rng, dtype = np.random.default_rng(0), dtype_of(name)
    for count in (2, 15):
        x, dy = (rng.standard_normal((count, 300)).astype(dtype) for _ in range(2))
        config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
        found = []
        for of in (lambda v: v, widened):
            with bnspec.use_kernels("numpy", KERNELS):
                saved = bnspec.batch_norm(of(x), bnspec.Params(np.ones(300), np.zeros(300)), config)[2]
                found.append(rounded(widened(bnspec.batch_norm_vjp(of(dy), saved).x), name))
        assert same(*found).all()


@pytest.mark.parametrize("name", DTYPES)
def test_no_bit_depends_on_the_layout_or_on_other_elements(name: str) -> None:
    rng, dtype = np.random.default_rng(0), dtype_of(name)
    base, other = ((rng.standard_normal((6, 5, 9, 37)) * 3 + 1).astype(dtype) for _ in range(2))
    factors = [v[None] for v in rng.standard_normal((4, 5))]
    groups = bnspec._types.Groups(1, 1)
    y = KERNELS.normalize(base, *factors[:3], groups)
    dx = KERNELS.grad_input(other, base, *factors, groups, None)
    last = [np.ascontiguousarray(np.moveaxis(v, 1, 3)) for v in (base, other)]
    by_columns = bnspec._types.Groups(3, 1)
    assert (np.moveaxis(KERNELS.normalize(last[0], *factors[:3], by_columns), 3, 1) == y).all()
    assert (np.moveaxis(KERNELS.grad_input(last[1], last[0], *factors, by_columns, None), 3, 1) == dx).all()
    part = KERNELS.normalize(base[1:3, :, 2:, 1:30], *factors[:3], groups)
    assert (part == y[1:3, :, 2:, 1:30]).all()
    base[0, 2, 3, 4], other[1, 4, 5, 6] = np.inf, np.nan
    factors = [v.copy() for v in factors]
    factors[1][0, 0] = factors[2][0, 0] = 1e-41
    last = [np.ascontiguousarray(np.moveaxis(v, 1, 3)) for v in (base, other)]
    for odd in (
        KERNELS.normalize(base, *factors[:3], groups),
        np.moveaxis(KERNELS.normalize(last[0], *factors[:3], by_columns), 3, 1),
    ):
        unlike = odd != y
        unlike[:, 0] = unlike[0, 2, 3, 4] = False
        assert not unlike.any()
    for odd in (
        KERNELS.grad_input(other, base, *factors, groups, None),
        np.moveaxis(KERNELS.grad_input(last[1], last[0], *factors, by_columns, None), 3, 1),
    ):
        unlike = odd != dx
        unlike[:, 0] = unlike[0, 2, 3, 4] = unlike[1, 4, 5, 6] = False
        assert not unlike.any()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(20, 4), (40, 4, 7), (4, 3, 30, 30)])
def test_constant_channels_become_beta(name: str, shape: tuple[int, ...]) -> None:
    """Also of the largest and the least numbers; an infinite beta is that of its own channel."""
    rng, beta = np.random.default_rng(1), np.asarray([0.1, np.inf, 1e-41, -7.0], np.float32)[: shape[1]]
    values = every_value(name)
    values = values[np.isfinite(values.astype(np.float32))]
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-30, decay=0.9, correction=0)
    for value in (values.max(), values.min(), values[1], values[0], values[12345]):
        x = rng.standard_normal(shape).astype(values.dtype)
        x[:, 0] = value
        x[:, 2] = value
        with bnspec.use_kernels("numpy", KERNELS), np.errstate(all="ignore"):
            y = bnspec.batch_norm(x, bnspec.Params(np.full_like(beta, 1e4), beta), config)[0]
        for channel in (0, 2):
            assert (y[:, channel] == rounded(beta, name)[channel]).all()
        assert (y[:, 1] == np.inf).all()


def step(x: Any, dy: Any, config: Any, gamma: Any, beta: Any) -> list[Any]:
    y, _, saved = bnspec.batch_norm(x, bnspec.Params(gamma, beta), config)
    tangent = bnspec.batch_norm_jvp(dy, saved)
    return [v.tobytes() for v in (y, *bnspec.batch_norm_vjp(dy, saved), tangent)]


class FourOnly(bnspec.Kernels):
    """The compiled primitives without the fused passes."""


for primitive in ("moments", "normalize", "grad_sums", "grad_input"):
    setattr(FourOnly, primitive, staticmethod(getattr(KERNELS, primitive)))


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis", "size"),
    [((3, 4, 20, 21), 1, None), ((6, 3, 70, 65), 1, 2), ((300, 70), 1, 100), ((9, 5, 5, 33), 3, 3)],
)
@pytest.mark.parametrize("odd", [False, True])
def test_bits_are_those_of_the_primitives_and_of_any_number_of_threads(
    name: str, shape: Any, axis: int, size: Any, odd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, rng = dtype_of(name), np.random.default_rng(2)
    x, dy = (rng.standard_normal(shape) * 2 + 1).astype(dtype), rng.standard_normal(shape).astype(dtype)
    gamma, beta = rng.standard_normal((2, shape[axis])).astype(np.float32)
    if odd:
        x.ravel()[::1001], gamma[0], beta[-1] = np.nan, 1e-40, np.inf
    config = bnspec.BatchNormConfig(axis=axis, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=size)
    monkeypatch.setattr(sys.modules["bnspec_backends.cpu.resources"], "SERIAL", 0)
    monkeypatch.setattr("bnspec_backends.cpu.operations.SERIAL", 0)
    found = []
    for kernels, threads in ((KERNELS, 1), (KERNELS, 2), (KERNELS, 3), (FourOnly(), 1)):
        monkeypatch.setattr(cpu.resources, "_workers", Workers(threads))
        with bnspec.use_kernels("numpy", kernels), np.errstate(all="ignore"):
            found.append(step(x, dy, config, gamma, beta))
    assert all(each == found[0] for each in found)
