"""The whole text of what is said to a state or a file that does not fit; nothing may change [BN-STATE-5, BN-ERR-2]."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refused

import bnspec
from bnspec._files.serialize import save_arrays

X = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
NAMES = "['beta', 'gamma', 'mean/EMA', 'variance/EMA']"


def with_state() -> Any:
    layer = bnspec.BatchNorm(name="bn1")
    layer(X)
    return layer


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        (
            ValueError,
            lambda state: {"gamma ": state["gamma"]} | {k: v for k, v in state.items() if k != "gamma"},
            "bn1: a state without ['gamma'] and with the unknown ['gamma ']; expected exactly the names "
            f"{NAMES} [BN-STATE-5]. Load it into a layer with the options it was saved from, rename the entries "
            "(bnspec.convert knows other frameworks' names), or leave out what this layer has not, such as a counter.",
        ),
        (
            ValueError,
            lambda state: state | {"steps": np.ones(3, np.float32)},
            "bn1: a state with the unknown ['steps']; expected exactly the names "
            f"{NAMES} [BN-STATE-5]. Load it into a layer with the options it was saved from, rename the entries "
            "(bnspec.convert knows other frameworks' names), or leave out what this layer has not, such as a counter.",
        ),
        (
            ValueError,
            lambda state: state | {"beta": np.ones((3, 1), np.float32)},
            "bn1: beta has shape (3, 1); expected an array of shape (C,) [BN-STATE-5]. "
            "The state may belong to another layer.",
        ),
        (
            TypeError,
            lambda state: state | {"mean/EMA": np.ones(3, np.int64)},
            "bn1: mean/EMA has dtype int64; expected one of bfloat16, float16, float32, float64 [BN-STATE-5]. "
            "The state may belong to another layer.",
        ),
        (
            ValueError,
            lambda state: {name: v[:2] for name, v in state.items()},
            "bn1: a state of shapes {'beta': (2,), 'gamma': (2,), 'mean/EMA': (2,), 'variance/EMA': (2,)}; expected "
            "one length, 3 [BN-STATE-5]. It may belong to a layer with another number of channels.",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [None, ".npz", ".safetensors"])
def test_a_state_that_does_not_fit(
    tmp_path: Path, kind: Any, change: Callable[..., Any], text: str, suffix: str | None
) -> None:
    layer = with_state()
    values = change(layer.state_dict())
    if suffix is None:
        with refused(kind, text, layer, values):
            layer.load_state_dict(values)
        return
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"state{suffix}"
    save_arrays(path, values, {})
    with refused(kind, text, layer, path):
        layer.load(path)


def test_a_state_that_holds_no_arrays() -> None:
    layer = with_state()
    values = layer.state_dict() | {"beta": [0.0, 0.0, 0.0]}
    text = (
        "bn1: beta is a list; expected an array of shape (C,) [BN-STATE-5]. "
        "Convert it first, for example with numpy.asarray."
    )
    with refused(TypeError, text, layer, values):
        layer.load_state_dict(values)


def test_a_state_that_waited_for_an_x_of_another_length() -> None:
    layer, x = bnspec.BatchNorm(name="bn1"), np.ones((6, 4), np.float32)
    layer.load_state_dict(with_state().state_dict())
    text = (
        "bn1: gamma of shape (3,); expected shape (4,) [BN-STATE-5]. "
        "The loaded state has another number of channels than x."
    )
    with refused(ValueError, text, layer, x):
        layer(x)
    layer(X)


class Loud:
    """Its pickle raises when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1/0",)


def test_a_file_that_is_damaged_or_foreign(tmp_path: Path) -> None:
    layer, path = with_state(), tmp_path / "state.npz"
    layer.save(path)
    whole = path.read_bytes()
    text = (
        f"'{path}' ({{}} bytes) cannot be loaded: {{}}; expected an intact .npz file, of bnspec (format version "
        "2) or of plain named arrays [BN-STATE-5]. Load another copy or save the state again; nothing was changed by "
        "this attempt."
    )

    def check(reason: str) -> None:
        with refused(ValueError, text.format(path.stat().st_size, reason), layer, path):
            layer.load(path)

    for length in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:length])
        check("File is not a zip file")
    path.write_bytes(whole[:-1])
    check("it has no digest where bnspec writes one")
    np.savez(path, **{name.replace("/", "_"): v for name, v in layer.variables.items()})
    with pytest.raises(ValueError, match=r"a state without .*'mean/EMA'.* and with the unknown .*'mean_EMA'"):
        layer.load(path)  # a foreign file, of other names
    np.savez(path, beta=np.array([Loud()], dtype=object))
    check("its member 'beta.npy' holds object (objects and pickles are never read)")
    path.write_bytes(pickle.dumps(Loud()))
    check("File is not a zip file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("beta.pkl", pickle.dumps(Loud()))
    check("its member 'beta.pkl' is no .npy array, or is there twice")
    path.write_bytes(whole)
    layer.load(path)


def test_saving_what_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    text = (
        "batch_norm: save before the first call; expected variables [BN-STATE-3]. Call the layer once, or load a state."
    )
    layer = bnspec.BatchNorm()
    with refused(RuntimeError, text, layer, path):
        layer.save(path)
    text = (
        f"the path '{tmp_path / 'state.pt'}' has the suffix '.pt'; expected .npz or .safetensors [BN-STATE-3]. "
        "Give the file one of these suffixes; it chooses the format."
    )
    layer, path = with_state(), tmp_path / "state.pt"
    with refused(ValueError, text, layer, path):
        layer.save(path)
