"""Folding, beside the layer and the normalization it replaces, by plain loops in float64."""

import importlib.util
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

import bnspec
from bnspec._float64 import rounded_to

#: Roundoffs of the dtypes that kernels are stored in.
ROUNDOFF = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}

#: Where frameworks put the output and the input channels of a kernel of one spatial axis: the order of the axes.
LAYOUTS = {"torch": (0, 1, 2), "torch transposed": (1, 0, 2), "keras": (2, 1, 0), "keras transposed": (2, 0, 1)}


def config(**fields: Any) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.9, "correction": 0} | fields))


def layer(x: Any, kernel: Any, bias: Any, groups: int, transposed: bool, padding: int) -> Any:
    """Return a convolution of x (N, I, L) by a kernel, (O, I/groups, K) or, transposed, (O/groups, I, K)."""
    n, inputs, length = x.shape
    k = kernel.shape[2]
    outputs = kernel.shape[0] * (groups if transposed else 1)
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding)])
    length += 2 * padding
    out = np.zeros((n, outputs, length + k - 1 if transposed else length - k + 1))
    per_out, per_in = outputs // groups, inputs // groups
    for o in range(outputs):
        for i in range(o // per_out * per_in, (o // per_out + 1) * per_in):
            row = kernel[o % per_out, i] if transposed else kernel[o, i % per_in]
            for j in range(k):
                if transposed:
                    out[:, o, j : j + length] += row[j] * x[:, i]
                else:
                    out[:, o] += row[j] * x[:, i, j : j + out.shape[2]]
    return out if bias is None else out + bias[:, None]


def affine(x: Any, params: Any, state: Any, options: Any, amplitude: bool = False) -> Any:
    """Return the normalization of x (N, C, L) in float64, or the sum of its terms' absolute values."""
    wide = state._replace(mean=state.mean.astype(np.float64), var=state.var.astype(np.float64))
    mean, var = (v[:, None] for v in bnspec.running_statistics(wide, options))
    gamma, beta = (None if v is None else np.asarray(v, np.float64)[:, None] for v in params)
    scale = (1.0 if gamma is None else gamma) / np.sqrt(var + options.epsilon)
    shift = 0.0 if beta is None else beta
    if amplitude:
        return (np.abs(x) + np.abs(mean)) * np.abs(scale) + np.abs(shift)
    return (x - mean) * scale + shift


@st.composite
def cases(draw: Any) -> Any:
    """A layer, a normalization, where they are stored, and an input."""
    groups, per_out, per_in = (draw(st.integers(1, 3), label=v) for v in ("groups", "outputs", "inputs"))
    k, layout = draw(st.integers(1, 3), label="elements"), draw(st.sampled_from(sorted(LAYOUTS)), label="layout")
    following, transposed = draw(st.booleans(), label="following"), "transposed" in layout
    dtype, bias_dtype = (draw(st.sampled_from(sorted(ROUNDOFF)), label=v) for v in ("kernel", "bias"))
    options = config(
        center=draw(st.booleans(), label="center"), scale=draw(st.booleans(), label="scale"),
        averaging=draw(st.sampled_from(["exponential", "debiased"])), axis=draw(st.sampled_from([1, -1, 3])),
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 999), label="seed"))
    shape = (per_out, per_in * groups, k) if transposed else (per_out * groups, per_in, k)
    kernel = rng.standard_normal(shape).astype(dtype)
    bias = rng.standard_normal(per_out * groups).astype(bias_dtype) if draw(st.booleans(), label="bias") else None
    channels = (per_in if following else per_out) * groups
    params, state = bnspec.init(options, channels=channels, like=np.zeros(1, "float32"))
    params = bnspec.Params(*(None if v is None else rng.standard_normal(channels).astype("float32") for v in params))
    mean = (rng.standard_normal(channels) * draw(st.sampled_from([1, 100]))).astype("float32")
    state = state._replace(mean=mean, var=rng.random(channels).astype("float32"))
    if state.count is not None:
        state = state._replace(count=np.full(channels, 3))
    x = rng.standard_normal((2, per_in * groups, 4))
    return groups, layout, following, kernel, bias, params, state, options, x


@settings(deadline=None)
@given(case=cases())
def test_a_folded_layer_is_both_layers(case: Any) -> None:
    groups, layout, following, kernel, bias, params, state, options, x = case
    order, transposed = LAYOUTS[layout], "transposed" in layout
    axes = {"output_axis": order.index(0), "input_axis": order.index(1), "groups": groups}
    stored = np.ascontiguousarray(kernel.transpose(order))
    if following and transposed and kernel.shape[2] > 1:
        with pytest.raises(ValueError, match="before a layer that pads with zeros"):
            bnspec.fold_into_following(stored, bias, params, state, options, **axes, zero_padding=True)
        return
    if following:
        folded = bnspec.fold_into_following(stored, bias, params, state, options, **axes, zero_padding=False)
    else:
        folded = bnspec.fold_into_preceding(stored, bias, params, state, options, **axes)
    assert folded.kernel.shape == stored.shape
    assert folded.kernel.dtype == kernel.dtype
    assert folded.bias.dtype == (kernel if bias is None else bias).dtype
    wide: Any = [v if v is None else np.asarray(v, np.float64) for v in (kernel, bias)]
    sizes: Any = [v if v is None else np.abs(v) for v in wide]
    padding = 0 if following else 1
    how: Any = (groups, transposed, padding)
    if following:
        want = layer(affine(x, params, state, options), *wide, *how)
        amplitude = layer(affine(x, params, state, options, True), *sizes, *how)
    else:
        want = affine(layer(x, *wide, *how), params, state, options)
        amplitude = affine(layer(np.abs(x), *sizes, *how), params, state, options, True)
    unstored = folded.kernel.astype(np.float64).transpose(np.argsort(order))
    got = layer(x, unstored, folded.bias.astype(np.float64), *how)
    allowed = np.abs(x).max() * folded.kernel_error + folded.bias_error
    assert (np.abs(got - want) <= allowed[:, None] + 64 * 2.0**-53 * amplitude).all()
    # One rounding: no number is off by more than half a unit of its dtype, or of its smallest subnormal number.
    u = ROUNDOFF[str(kernel.dtype)]
    total = np.abs(folded.kernel.astype(np.float64)).sum() * u * (1 + 2 * u) + kernel.size * 2.0**-25
    assert folded.kernel_error.sum() <= total
    assert (folded.bias_error <= np.abs(folded.bias) * ROUNDOFF[str(folded.bias.dtype)] * 1.001 + 2.0**-25).all()


@pytest.mark.parametrize("averaging", ["exponential", "debiased"])
def test_the_affine_map_is_exact_to_one_rounding(averaging: Any) -> None:
    options = config(averaging=averaging, epsilon=0.0, scale=False)
    _, state = bnspec.init(options, channels=2, like=np.zeros(1, "float32"))
    state = state._replace(mean=np.float32([3.0, 1e6]), var=np.float32([4.0, 0.25]))
    share = Fraction(1)
    if averaging == "debiased":
        state, share = state._replace(count=np.asarray([1, 1])), 1 - Fraction(options.decay)
    beta = np.float32([1.0, 0.1])
    folded = bnspec.fold(bnspec.Params(None, beta), state, options)
    for c in range(2):
        scale = np.sqrt(np.float64(share / Fraction(float(state.var[c]))))
        shift = float(Fraction(float(beta[c])) - Fraction(float(state.mean[c])) / share * Fraction(float(scale)))
        for found, error, want in (
            (folded.scale, folded.scale_error, scale),
            (folded.shift, folded.shift_error, shift),
        ):
            assert abs(float(found[c]) - want) <= 2.0**-24 * abs(want) * 1.0001
            assert error[c] == pytest.approx(abs(float(found[c]) - want), abs=4 * 2.0**-53 * abs(want))
    assert folded.scale.dtype == folded.shift.dtype == np.float32


@pytest.mark.parametrize("name", ["jax", "torch", "array_api_strict"])
def test_folding_in_float64_whatever_the_library_has(name: str) -> None:
    """JAX without x64 has no float64: the kernels are those of NumPy, to the bit."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    backend = bnspec.get_backend("strict" if name == "array_api_strict" else name)
    rng, options = np.random.default_rng(0), config(epsilon=1e-5)
    kernel, gamma, beta, mean, var = (rng.random(s).astype("float32") for s in ((3, 4), 3, 3, 3, 3))
    found = []
    for put in (np.asarray, backend.asarray):
        state = bnspec.RunningState(put(mean), put(var))
        params = bnspec.Params(put(gamma), put(beta))
        found.append(bnspec.fold_into_preceding(put(kernel), None, params, state, options, output_axis=0, input_axis=1))
    assert type(found[1].kernel) is type(backend.asarray(kernel))
    for a, b in zip(found[0], found[1], strict=True):
        np.testing.assert_array_equal(a, b if isinstance(b, np.ndarray) else backend.to_numpy(b))


@settings(deadline=None)
@given(st.lists(st.floats(-1e38, 1e38) | st.floats(-1e-37, 1e-37) | st.floats(-2, 2), min_size=1))
def test_rounding_to_sixteen_bits_is_one_rounding(values: list[float]) -> None:
    """By way of float32 a number may be rounded twice, to the wrong neighbour."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    v = np.asarray([*values, 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 3 * 2.0**-8])
    stored, error = rounded_to(v, np.zeros(1, ml_dtypes.bfloat16))
    bits = stored.view(np.uint16).astype(np.int64)
    for near in (bits - 1, bits + 1):
        other = np.where(near < 0, 0, near).astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
        distance = np.abs(other - v)
        assert (np.isnan(other) | (error < distance) | ((error == distance) & (bits % 2 == 0)) | (near < 0)).all()
    assert stored[len(values) :].tolist() == [1 + 2.0**-7, 1.0, 1 + 2.0**-6]


def test_a_kernel_before_which_nothing_is_added_keeps_having_no_bias() -> None:
    options = config(center=False)
    params, state = bnspec.init(options, channels=2, like=np.zeros(1, "float32"))
    kernel = np.ones((3, 3, 2, 5), "float32")
    axes: dict[str, Any] = {"output_axis": -1, "input_axis": -2}
    folded = bnspec.fold_into_following(kernel, None, params, state, options, **axes, zero_padding=True)
    assert folded.bias is None
    np.testing.assert_allclose(folded.kernel, 1 / np.sqrt(1.001), rtol=1e-7)


def test_a_depthwise_kernel_of_keras() -> None:
    options, kernel = config(epsilon=0.0), np.ones((3, 3, 2, 2), "float32")
    params, state = bnspec.init(options, channels=4, like=kernel)
    params = params._replace(gamma=np.float32([1, 2, 3, 4]))
    folded = bnspec.fold_into_preceding(kernel, None, params, state, options, output_axis=3, input_axis=2, groups=2)
    assert folded.kernel[0, 0].tolist() == [[1, 2], [3, 4]]


def test_what_cannot_be_folded_is_refused() -> None:
    options, kernel = config(epsilon=0.0), np.ones((4, 3), "float32")
    params, state = bnspec.init(options, channels=4, like=kernel)
    preceding = bnspec.fold_into_preceding
    given_things = (kernel, params, state)
    with refused(
        ValueError,
        "stem: a kernel of shape (4, 3) with 3 on its output axis, in 1 groups, beside a normalization of 4 channels; "
        "expected 4 output channels, of all groups or of one, and as many in each group [BN-SHAPE-4]. "
        "Check the axes and the number of groups.",
        *given_things,
    ):
        preceding(kernel, None, params, state, options, output_axis=1, input_axis=0, name="stem")
    with refused(
        ValueError,
        "stem: shifts that are not 0, before a layer that pads with zeros; expected outputs with every product, to "
        "which a shift adds the same number everywhere [BN-INF-1]. Fold into the layer before, or pad x with "
        "-shift/scale first.",
        *given_things,
    ):
        moved = state._replace(mean=np.ones(4, "float32"))
        bnspec.fold_into_following(
            kernel, None, params, moved, options, output_axis=1, input_axis=0, zero_padding=True, name="stem"
        )
    text = "stem: scale and shift that are not finite in float64, in channels [2]; expected finite numbers [BN-INF-1]. "
    advice = "Look for a variance and epsilon of 0, for NaN in the statistics, and at what the dtype can hold."
    flat = state._replace(var=np.float32([1, 1, 0, 1]))
    with refused(ValueError, text + advice):
        bnspec.fold(params, flat, options, name="stem")
    small = state._replace(var=np.float32([1, 1e-12, 1, 1]))
    text = "stem: folded kernels that are not finite in float16, in channels [1]; expected finite numbers [BN-INF-1]. "
    with refused(ValueError, text + advice):
        preceding(np.ones((4, 3), "float16"), None, params, small, options, output_axis=0, input_axis=1, name="stem")
    for axes, kind in (((0, 0), ValueError), ((0, 2), ValueError), ((-3, 1), ValueError), ((0.0, 1), TypeError)):
        with pytest.raises(kind, match="BN-SHAPE-2"):
            preceding(kernel, None, params, state, options, output_axis=axes[0], input_axis=axes[1])
    with pytest.raises(ValueError, match=r"bias has shape \(3,\); expected shape \(4,\).*BN-SHAPE-6"):
        preceding(kernel, kernel[0], params, state, options, output_axis=0, input_axis=1)
    with pytest.raises(TypeError, match="BN-INF-1"):
        bnspec.fold_into_following(
            kernel, None, params, state, options, output_axis=1, input_axis=0, zero_padding="same"
        )


def test_inside_of_a_transformation_folding_is_refused() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    options = config()
    params, state = bnspec.init(options, channels=2, like=jax.numpy.zeros(1))
    with pytest.raises(RuntimeError, match=r"state.mean inside jax.jit; .*BN-DET-3"):
        jax.jit(lambda s: bnspec.fold(params, s, options))(state)
