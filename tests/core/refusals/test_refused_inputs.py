"""What the library takes from nobody: masked arrays, states of 16 bits, kernels without a primitive, text as JSON."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import bnspec

CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
X = np.ones((4, 2), "float32")


def test_a_masked_array_is_refused_and_told_what_to_do() -> None:
    params, state = bnspec.init(CONFIG, channels=2, like=X)
    masked = np.ma.masked_array(X, mask=[[True, False]] * 4)
    with pytest.raises(TypeError, match=r"numpy\.ma masked array.*\[BN-MASK-7\].*mask=~numpy\.ma\.getmaskarray"):
        bnspec.batch_norm(masked, params, CONFIG)
    with pytest.raises(TypeError, match="BN-MASK-7"):
        bnspec.batch_norm_inference(masked, params, state, CONFIG)
    with pytest.raises(TypeError, match="BN-MASK-7"):
        bnspec.BatchNorm()(masked)


@pytest.mark.parametrize("odd", [np.dtype("f4"), np.random.default_rng(0), np.float32, "x"])
def test_what_is_no_array_is_refused(odd: object) -> None:
    params, state = bnspec.init(CONFIG, channels=2, like=X)
    with pytest.raises(TypeError, match="BN-SHAPE-5"):
        bnspec.batch_norm(odd, params, CONFIG)
    with pytest.raises(TypeError, match="BN-SHAPE-5"):
        bnspec.batch_norm_inference(odd, params, state, CONFIG)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_state_of_16_bits_is_refused(dtype: type) -> None:
    params, state = bnspec.init(CONFIG, channels=2, like=X)
    narrow = state._replace(var=state.var.astype(dtype))
    with pytest.raises(TypeError, match=r"state\.var has dtype b?float16; expected float32 or float64 \[BN-PREC-1\]"):
        bnspec.batch_norm_inference(X, params, narrow, CONFIG)
    _, stats, _ = bnspec.batch_norm(X, params, CONFIG)
    with pytest.raises(TypeError, match="BN-PREC-1"):
        bnspec.update_running(narrow, stats, CONFIG)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", "", '"x"'])
def test_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected what to_json wrote \[BN-STATE-6\]"):
        bnspec.BatchNormConfig.from_json(text)


def test_strict_is_a_name_to_serve_kernels_by() -> None:
    import array_api_strict

    calls = []

    class Counting(bnspec.Kernels):
        def moments(self, *given: Any) -> Any:
            calls.append(1)
            return super().moments(*given)

    x = array_api_strict.asarray(X)
    params, _ = bnspec.init(CONFIG, channels=2, like=x)
    with bnspec.use_kernels("strict", Counting()):
        bnspec.batch_norm(x, params, CONFIG)
    assert calls
