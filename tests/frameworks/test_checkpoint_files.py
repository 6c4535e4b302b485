"""Files that the frameworks write: names that are numbers, nesting, graphs, and files that are refused by name."""

import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import bits
from moved_models import MODELS, C

import bnspec
from bnspec._cli import main

os.environ.setdefault("KERAS_BACKEND", "jax")

BY_NAME = {model.dialect: model for model in MODELS}
RNG = np.random.default_rng(2)
VALUES: dict[str, Any] = dict(zip(("gamma", "beta", "mean", "var"), RNG.uniform(0.3, 3, (4, C)).astype(np.float32)))


@pytest.fixture(autouse=True)
def frameworks_warn() -> Iterator[None]:
    """Let the frameworks warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def convert(path: Path, source: str, out: Path, *options: str, target: str = "tensorpack") -> int:
    return main(["convert", str(path), "--from", source, "--to", target, "-o", str(out), *options])


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    return [line for line in printed.err.splitlines() if line.startswith("bnspec: ")][-1]


def read(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def keras_model(keras: Any) -> Any:
    """Layers that are nested, used twice, without gamma, and such as have no variables."""
    shared = keras.layers.BatchNormalization(name="shared", momentum=0.8)
    start = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(scale=False, epsilon=1e-4)(keras.layers.ReLU()(shared(start)))
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1), keras.layers.BatchNormalization()])
    model = keras.Model(start, inner(shared(x)))
    for number, weight in enumerate(model.weights):
        weight.assign(RNG.uniform(1, 2, weight.shape) + number)
    return model


LAYERS = ("layers/batch_normalization", "layers/batch_normalization_1", "layers/sequential/layers/batch_normalization")


@pytest.mark.parametrize("dialect", ["keras", "tf_keras"])
def test_a_model_of_keras_knows_which_numbers_are_which(dialect: str, tmp_path: Path) -> None:
    keras = pytest.importorskip(dialect)
    model = keras_model(keras)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    out, other, back = tmp_path / "o.npz", tmp_path / "w.npz", tmp_path / "b.keras"
    assert convert(tmp_path / "m.keras", dialect, out) == 0
    told = json.loads(Path(f"{out}.layers.json").read_text())["layers"]
    assert tuple(told) == LAYERS
    first, second, inner = told.values()
    assert (first["momentum"], second["epsilon"], second["scale"], inner["scale"]) == (0.8, 1e-4, False, True)
    made = read(out)
    norms = {layer.name: layer for layer in (*model.layers, *model.layers[-1].layers) if "moving_mean" in dir(layer)}
    (shared,) = [layer for name, layer in norms.items() if name == "shared"]
    assert bits(made["layers/batch_normalization/variance/EMA"]) == bits(np.asarray(shared.moving_variance))

    config = ("--config", f"{out}.layers.json")  # tensorpack's words are those of Keras, but for its dialect
    content = json.loads(Path(f"{out}.layers.json").read_text()) | {"dialect": dialect}
    Path(f"{out}.layers.json").write_text(json.dumps(content))
    assert convert(tmp_path / "m.weights.h5", dialect, other, *config) == 0
    assert bits(read(other)) == bits(made)

    Path(f"{out}.layers.json").write_text(json.dumps(content | {"dialect": "tensorpack"}))
    fresh = keras_model(keras)
    fresh.save(tmp_path / "fresh.keras")
    options = (*config, "--template", str(tmp_path / "fresh.keras"))
    assert convert(out, "tensorpack", back, *options, target=dialect) == 0
    loaded = keras.models.load_model(back)
    where = [layer for layer in (*loaded.layers, *loaded.layers[-1].layers) if "moving_mean" in dir(layer)]
    for ours, theirs in zip(where, norms.values(), strict=True):
        assert bits([np.asarray(v) for v in ours.weights]) == bits([np.asarray(v) for v in theirs.weights])
        assert (ours.epsilon, ours.momentum) == (theirs.epsilon, theirs.momentum)


def test_a_file_of_keras_says_who_wrote_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras = pytest.importorskip("keras")
    model, out = tmp_path / "m.keras", tmp_path / "o.npz"
    keras_model(keras).save(model)
    keras_model(keras).save_weights(tmp_path / "m.weights.h5")
    assert convert(model, "tf-keras", out) == 2
    told = refused(capsys)
    assert f"a file of Keras {keras.__version__}, to be read as one of tf_keras; expected the dialect keras" in told
    assert convert(model, "torch", out) == 2
    assert "to be read as one of torch; expected the dialect keras [BN-STATE-5]. Say --from keras" in refused(capsys)
    assert convert(tmp_path / "m.weights.h5", "torch", out) == 2
    assert "whose variables are numbered, in a file to be read as one of torch" in refused(capsys)


def test_a_configuration_says_only_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras = pytest.importorskip("keras")
    model, out, config = tmp_path / "m.keras", tmp_path / "o.npz", tmp_path / "c.json"
    keras_model(keras).save(model)
    config.write_text(json.dumps({"layers": {LAYERS[1]: {"epsilon": 0.5}}}))
    assert convert(model, "keras", out, "--config", str(config)) == 0
    told = json.loads(Path(f"{out}.layers.json").read_text())["layers"]
    assert (told[LAYERS[1]]["epsilon"], told[LAYERS[1]]["momentum"], told[LAYERS[1]]["scale"]) == (0.5, 0.99, False)
    assert told[LAYERS[0]]["momentum"] == 0.8
    assert "does not say" not in capsys.readouterr().out


@pytest.mark.parametrize("dialect", ["keras", "tf_keras"])
def test_the_older_h5_names_its_variables(dialect: str, tmp_path: Path) -> None:
    keras = pytest.importorskip(dialect)
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.BatchNormalization(name="bn", center=False)])
    model.save(tmp_path / "m.h5")
    out = tmp_path / "o.npz"
    assert convert(tmp_path / "m.h5", dialect, out) == 0
    names = {name.rpartition("/bn/")[2] for name in read(out) if "/bn/" in name}
    assert {"gamma", "mean/EMA", "variance/EMA"} <= names
    assert not any("beta" in name for name in names)


def test_numbers_that_no_name_explains_need_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    path, out, config = tmp_path / "m.weights.h5", tmp_path / "o.npz", tmp_path / "c.json"
    with h5py.File(path, "w") as file:
        for number in range(3):
            file[f"layers/batch_normalization/vars/{number}"] = np.ones(3, "f")
            file[f"norm/vars/{number}"] = np.ones(3, "f")
    assert convert(path, "keras", out) == 2
    assert "layer 'layers/batch_normalization' has 3 variables; expected 4: gamma, beta, mean, var" in refused(capsys)
    layers = {"layers/batch_normalization": {"scale": False}, "norm": {"center": False}}
    config.write_text(json.dumps({"layers": layers}))
    assert convert(path, "keras", out, "--config", str(config)) == 0
    assert {"norm/gamma", "layers/batch_normalization/beta"} <= set(read(out))


def test_arrays_in_other_files_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    path, out = tmp_path / "m.h5", tmp_path / "o.npz"
    (tmp_path / "secret").write_bytes(b"\1" * 12)
    with h5py.File(path, "w") as file:
        names = ("gamma", "beta", "moving_mean")
        for name in names:
            file[f"bn/{name}"] = np.ones(3, "f")
        file.create_dataset("bn/moving_variance", (3,), "f", external=[(str(tmp_path / "secret"), 0, 12)])
    assert convert(path, "keras", out) == 2
    assert "its array 'bn/moving_variance' lies in another file" in refused(capsys)


def test_zeros_that_a_small_h5_inflates_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["bn/moving_mean"] = np.ones(3, "f")
        file.create_dataset("bn/moving_variance", (1 << 29,), "f", chunks=True)  # nothing is stored of it
    assert convert(path, "keras", tmp_path / "o.npz") == 2
    assert "its array 'bn/moving_variance' has 2147483648 bytes in 0 of the file" in refused(capsys)


@pytest.mark.parametrize("dialect", ["keras", "tf_keras", "flax", "equinox", "onnx"])
def test_truncated_and_foreign_files(dialect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = BY_NAME[dialect]
    pytest.importorskip(model.package)
    path, out = tmp_path / f"m{model.suffix}", tmp_path / "o.npz"
    model.save(path, VALUES, {})
    options = ("--config", str(model.options(path, {})))
    whole = path.read_bytes()
    assert convert(path, dialect, out, *options, "--count", "keep") == 0
    out.unlink()
    for data in (whole[: len(whole) // 2], whole[:3], b"", b"\0" * 100, b"x" * len(whole)):
        path.write_bytes(data)
        capsys.readouterr()
        assert convert(path, dialect, out, *options) == 2, data[:10]
        assert f"cannot be read, of {len(data)} bytes: " in refused(capsys)
        assert not out.exists()


def test_leaves_without_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("equinox")
    model, path, config = BY_NAME["equinox"], tmp_path / "m.eqx", tmp_path / "c.json"
    model.save(path, VALUES, {})
    assert convert(path, "equinox", tmp_path / "o.npz") == 2
    assert "a .eqx file, which names no array" in refused(capsys)
    for names, text in (
        (["bn.weight", "bn.bias"], "it holds more than the 2 arrays that have a name"),
        ([*model.names()["names"], "more"], "its array 'more' cannot be read"),
        (["a"] * 6, "two of its leaves are given one name"),
    ):
        config.write_text(json.dumps({"names": names}))
        assert convert(path, "equinox", tmp_path / "o.npz", "--config", str(config)) == 2
        assert text in refused(capsys)


def test_formats_that_hold_more_than_arrays_need_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path = BY_NAME["tensorpack"], tmp_path / "m.npz"
    model.save(path, VALUES, {})
    for dialect, package in (("keras", "h5py"), ("onnx", "onnx"), ("equinox", "equinox")):
        pytest.importorskip(package)
        out = tmp_path / f"o{BY_NAME[dialect].suffix}"
        assert convert(path, "tensorpack", out, "--count", "keep", target=dialect) == 2
        assert "and no template; expected a" in refused(capsys)
        assert not out.exists()


def test_nodes_are_called_as_their_initializers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    norms = [torch.nn.BatchNorm2d(3, eps=1e-3), torch.nn.BatchNorm2d(3, momentum=0.25)]
    names = bnspec.dialects.torch.names
    nodes, held = [], []
    for number, norm in enumerate(norms):
        state = {f"net.{number}.{name}": v.numpy() + number for name, v in norm.state_dict().items() if v.ndim}
        held += [numpy_helper.from_array(v, n) for n, v in state.items()]
        inputs = [f"net.{number}.{names[f]}" for f in ("gamma", "beta", "mean", "var")]
        attributes = {"epsilon": norm.eps, "momentum": 1 - norm.momentum}
        nodes.append(helper.make_node("BatchNormalization", [f"x{number}", *inputs], [f"x{number + 1}"], **attributes))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x0", "x2")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], held)), tmp_path / "m.onnx")
    out = tmp_path / "o.pt"
    assert convert(tmp_path / "m.onnx", "onnx", out, "--count", "keep", target="torch") == 0
    told = json.loads(Path(f"{out}.layers.json").read_text())["layers"]
    assert told == {
        "net.0": {"eps": 1e-3, "momentum": 0.1, "affine": True},
        "net.1": {"eps": 1e-5, "momentum": 0.25, "affine": True},
    }
    made = torch.load(io.BytesIO(out.read_bytes()), weights_only=True)
    for number, norm in enumerate(norms):
        for name, value in norm.state_dict().items():
            assert value.ndim == 0 or torch.equal(made[f"net.{number}.{name}"], value + number)


def test_nested_variables_of_flax_nnx(tmp_path: Path) -> None:
    nnx: Any = pytest.importorskip("flax.nnx")
    import flax.serialization

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.bn = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    pure = nnx.to_pure_dict(nnx.state(Net()))
    (tmp_path / "m.msgpack").write_bytes(flax.serialization.msgpack_serialize(pure))
    out = tmp_path / "o.npz"
    assert convert(tmp_path / "m.msgpack", "flax", out) == 0
    assert {"bn/gamma", "bn/beta", "bn/mean/EMA", "bn/variance/EMA", "linear/kernel"} <= set(read(out))


@pytest.mark.parametrize("suffix", [".msgpack", ".weights.h5"])
def test_names_that_a_format_cannot_hold_are_refused(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flax")
    pytest.importorskip("h5py")
    model, path, out = BY_NAME["tensorpack"], tmp_path / "m.npz", tmp_path / f"o{suffix}"
    model.save(path, VALUES, {})
    np.savez(path, **read(path), a=np.ones(2), **{"a/b": np.ones(2)})
    target = "flax" if suffix == ".msgpack" else "keras"
    assert convert(path, "tensorpack", out, "--count", "keep", target=target) == 2
    assert "names none of which is the beginning of another" in refused(capsys)
    assert not out.exists()


def test_a_folder_of_orbax_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ocp = pytest.importorskip("orbax.checkpoint")
    tree = {
        "params": {"bn": {"scale": VALUES["gamma"], "bias": VALUES["beta"]}, "dense": {"kernel": np.ones((2, 3))}},
        "batch_stats": {"bn": {"mean": VALUES["mean"], "var": VALUES["var"]}},
    }
    folder, out, back = tmp_path / "checkpoint", tmp_path / "o.npz", tmp_path / "b.orbax"
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder, tree)
    assert convert(folder, "flax", out) == 0
    assert bits(read(out)["bn/variance/EMA"]) == bits(VALUES["var"])
    options = ("--config", f"{out}.layers.json", "--count", "keep")
    assert convert(out, "tensorpack", back, *options, target="flax") == 0
    with ocp.PyTreeCheckpointer() as reader:
        made = reader.restore(back)
    assert bits({n: np.asarray(v) for n, v in made["batch_stats"]["bn"].items()}) == bits(tree["batch_stats"]["bn"])
    assert bits(np.asarray(made["params"]["bn"]["scale"])) == bits(VALUES["gamma"])
    capsys.readouterr()
    assert convert(out, "tensorpack", back, *options, target="flax") == 2
    assert "cannot be written: it is there already; expected a path where nothing is" in refused(capsys)
    (folder / "manifest.ocdbt").unlink()
    assert convert(folder, "flax", out) == 2
    assert "cannot be read: " in refused(capsys)
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "empty", "flax", out) == 2
    assert "cannot be read: " in refused(capsys)
