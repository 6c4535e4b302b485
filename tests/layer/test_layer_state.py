"""A layer's variables leave and come back to the bit, also into another library; layers of every library agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import bits
from installed_here import BACKENDS, installed

import bnspec

RNG = np.random.default_rng(5)
X, X2, DY = (RNG.normal(size=(6, 3)).astype(np.float32) for _ in range(3))
FORMATS = [
    ".npz",
    pytest.param(".safetensors", marks=pytest.mark.skipif(not installed("safetensors"), reason="needs safetensors")),
]
LAYERS = {
    "plain": lambda: bnspec.BatchNorm(),
    "counting": lambda: bnspec.BatchNorm(averaging="cumulative", center=False),
    "renorm": lambda: bnspec.BatchRenorm(2.0, 1.0),
    "torch names": lambda: bnspec.BatchNorm(dialect="torch", averaging="pooled"),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_state_dict_is_a_copy_and_goes_back_to_the_bit(kind: Any) -> None:
    layer, fresh = LAYERS[kind](), LAYERS[kind]()
    layer(X)
    state = layer.state_dict()
    kept = bits(state)
    layer(X2)
    assert bits(state) == kept != bits(layer.state_dict())
    later = bits(layer(X))
    fresh.load_state_dict(state)
    assert bits(fresh.variables) == kept  # before the first call already
    layer.load_state_dict(state)
    for one in (layer, fresh):
        one(X2)
        assert bits(one(X)) == later
        state["gamma" if "gamma" in state else "weight"][...] = 7.0  # what was loaded is a copy too
    assert bits(layer.variables) == bits(fresh.variables)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_file_goes_back_to_the_bit(tmp_path: Path, kind: Any, suffix: str) -> None:
    layer, fresh, path = LAYERS[kind](), LAYERS[kind](), tmp_path / f"state{suffix}"
    layer(X)
    layer(np.where(X > 0, X, np.float32(np.nan)))  # NaN is among the values
    layer.save(path)
    fresh.load(path)
    assert bits(fresh.variables) == bits(layer.variables)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"])
@pytest.mark.parametrize("called", [False, True])
def test_a_file_of_a_numpy_layer_loads_into_one_of_another_library(
    tmp_path: Path, suffix: str, backend: Any, called: bool
) -> None:
    library, path = bnspec.get_backend(backend), tmp_path / f"state{suffix}"
    layer, other = (bnspec.BatchNorm(name=name) for name in ("ours", "theirs"))
    x = library.asarray(X)
    layer(X)
    layer.save(path)
    if called:
        other(library.asarray(X2))
    other.load(path)
    y = other.eval()(x)
    assert type(y) is type(x)
    for name, value in other.variables.items():
        assert type(value) is type(x)
        assert np.array_equal(library.to_numpy(value), layer.variables[name])
    np.testing.assert_allclose(library.to_numpy(y), layer.eval()(X), rtol=1e-6, atol=1e-6)
    back = bnspec.BatchNorm()
    back.load_state_dict(other.state_dict())
    back.eval()(X)
    assert bits(back.variables) == bits(layer.variables)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_computes_the_same_with_arrays_of_every_library(backend: str, kind: Any) -> None:
    library = bnspec.get_backend(backend)
    ours, theirs = LAYERS[kind](), LAYERS[kind]()
    for x in (X, X2):
        y, dx = ours(x), ours.backward(DY)
        foreign = library.asarray(x)
        results = theirs(foreign), theirs.backward(library.asarray(DY))
        for mine, result in zip((y, dx), results):
            assert type(result) is type(foreign)
            np.testing.assert_allclose(library.to_numpy(result), mine, rtol=3e-6, atol=3e-6)
    for name, value in theirs.variables.items():
        assert type(value) is type(foreign)
        np.testing.assert_allclose(library.to_numpy(value), ours.variables[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_initializer_of_another_library_is_converted(backend: str) -> None:
    library = bnspec.get_backend(backend)
    layer = bnspec.BatchNorm(gamma_initializer=library.asarray(np.asarray([1.0, 2.0, 3.0], np.float32)))
    layer(X)
    assert bits(layer.params.gamma) == bits(np.asarray([1.0, 2.0, 3.0], np.float32))


def test_the_variables_of_a_layer_are_not_those_of_its_input() -> None:
    layer = bnspec.BatchNorm(gamma_initializer=np.ones(3, np.float32), decay=0.0)
    x = X.copy()
    layer(x)
    before = bits(layer.variables)
    x[...] = 0.0
    assert bits(layer.variables) == before


@pytest.mark.filterwarnings("ignore::bnspec.UntrainedParametersWarning")
@pytest.mark.parametrize("kind", LAYERS)
def test_the_running_state_is_no_part_of_the_graph_of_torch(kind: Any) -> None:
    torch = pytest.importorskip("torch")
    layer, x = LAYERS[kind](), torch.asarray(X).requires_grad_()
    for _ in range(2):
        layer(x).sum().backward()
    layer.params = layer.params._replace(gamma=layer.params.gamma.requires_grad_())
    assert not any(v is not None and v.requires_grad for v in layer.state)
    for mode in (layer.train, layer.eval):
        mode()
        for _ in range(2):  # no graph is shared between two calls
            torch.mean(layer(x) ** 3).backward()
    state = layer.state_dict()
    assert not any(v.requires_grad for v in state.values())
    layer.load_state_dict(layer.variables)


def test_running_statistics_are_constants_to_automatic_differentiation() -> None:
    torch = pytest.importorskip("torch")
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=0, averaging="debiased")
    x = torch.asarray(X, dtype=torch.float64).requires_grad_()
    params, state = bnspec.init(config, channels=3, like=x)
    state = bnspec.update_running(state, bnspec.batch_norm(x, params, config)[1], config)
    mean, var = (v.clone().requires_grad_() for v in (state.mean, state.var))
    y, saved = bnspec.batch_norm_inference(x, params, state._replace(mean=mean, var=var), config)
    dy = torch.asarray(DY, dtype=torch.float64)
    y.backward(dy)
    assert (mean.grad, var.grad) == (None, None)
    torch.testing.assert_close(x.grad, bnspec.batch_norm_vjp(dy, saved).x.detach())
