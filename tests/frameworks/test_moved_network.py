"""A whole network goes from torch to Keras, to flax, and back to torch, and is run in each of them."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moved_network import NORMS, flax_network, keras_network, kernel_of, torch_network

from bnspec._cli import main

os.environ.setdefault("KERAS_BACKEND", "jax")

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
flax = pytest.importorskip("flax")

CONVOLUTIONS = [kernel_of(name) for name in NORMS]
IN_FLAX = [name.replace(".", "_") for name in NORMS]

#: The other arrays by their names in torch and flax, and how the axes are ordered from torch to the others, and back.
IN_TORCH = [*(f"{name}.weight" for name in CONVOLUTIONS), "fc.weight", "fc.bias"]
OTHERS_IN_FLAX = [
    *(f"params/{name.replace('.', '_')}/kernel" for name in CONVOLUTIONS),
    "params/fc/kernel",
    "params/fc/bias",
]
TO_LAST, TO_FIRST = [[2, 3, 1, 0], [1, 0]], [[3, 2, 0, 1], [1, 0]]


@pytest.fixture(autouse=True)
def frameworks_warn() -> Iterator[None]:
    """Let the frameworks warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def others(path: Path, before: list[str], after: list[str], axes: list[list[int]] | None) -> tuple[str, str]:
    """Write the file of other arrays; return the option."""
    order: list[list[int] | None] = [None] * len(before)
    if axes is not None:
        order = [*[axes[0]] * len(NORMS), axes[1], None]
    places = {
        old: {"name": new} | ({} if a is None else {"axes": a})
        for old, new, a in zip(before, after, order, strict=True)
    }
    path.write_text(json.dumps({"arrays": places}))
    return "--others", str(path)


def numbered(model: Any, kind: str, names: list[str]) -> list[str]:
    """Return the paths in a file of Keras, which numbers the layers of one kind, of those with these names."""
    own = [layer.name for layer in model.layers if type(layer).__name__.lower() == kind.replace("_", "")]
    return [f"layers/{kind}" + (f"_{i}" if (i := own.index(name.replace(".", "_"))) else "") for name in names]


def renamed(before: list[str], after: list[str]) -> list[str]:
    return [word for old, new in zip(before, after, strict=True) for word in ("--rename", f"{old}={new}")]


def convert(source: Path, target: Path, *options: str) -> None:
    dialects = {".pt": "torch", ".keras": "keras", ".msgpack": "flax"}
    between = ("--from", dialects[source.suffix], "--to", dialects[target.suffix])
    assert main(["convert", str(source), *between, "-o", str(target), *options]) == 0


def arguments(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(Path(f"{path}.layers.json").read_text())["layers"]
    return found


def test_there_and_back_through_three_frameworks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, x = torch_network(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for norm, momentum in zip((m for m in network.modules() if hasattr(m, "running_mean")), (0.1, 0.3), strict=False):
        norm.momentum = momentum
    first, in_keras, in_flax, last = (tmp_path / name for name in ("a.pt", "b.keras", "c.msgpack", "d.pt"))
    torch.save(network.state_dict(), first)
    wanted = network(x).detach().numpy()
    tolerance: Any = {"rtol": 1e-4, "atol": 1e-4 * np.abs(wanted).max()}
    images = x.permute(0, 2, 3, 1).numpy()

    fresh = keras_network(keras)
    fresh.save(tmp_path / "fresh.keras")
    norms = numbered(fresh, "batch_normalization", NORMS)
    arrays = [f"{path}/vars/0" for path in numbered(fresh, "conv2d", CONVOLUTIONS)]
    arrays += ["layers/dense/vars/0", "layers/dense/vars/1"]
    template = ("--template", str(tmp_path / "fresh.keras"))
    places = others(tmp_path / "1.json", IN_TORCH, arrays, TO_LAST)
    convert(first, in_keras, *template, *places, *renamed(NORMS, norms))
    model = keras.models.load_model(in_keras)
    np.testing.assert_allclose(np.asarray(model(images, training=False)), wanted, **tolerance)

    places = others(tmp_path / "2.json", arrays, OTHERS_IN_FLAX, None)
    convert(in_keras, in_flax, *places, *renamed(norms, IN_FLAX))
    variables = flax.serialization.msgpack_restore(in_flax.read_bytes())
    found = flax_network(flax.linen, arguments(in_flax)).apply(variables, images)
    np.testing.assert_allclose(np.asarray(found), wanted, **tolerance)

    places = others(tmp_path / "3.json", OTHERS_IN_FLAX, IN_TORCH, TO_FIRST)
    convert(in_flax, last, *places, *renamed(IN_FLAX, NORMS), "--config", f"{in_flax}.layers.json")
    back = torch.load(last, weights_only=True)
    again = torch_network()
    missing, unexpected = again.load_state_dict(back, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert again(x).detach().numpy().tobytes() == wanted.tobytes()
    for name, value in network.state_dict().items():
        assert name in missing or name.endswith("num_batches_tracked") or torch.equal(back[name], value), name
    printed = capsys.readouterr().out
    assert f"{len(NORMS)} layers converted, {len(NORMS) + 2} other arrays placed, 0 other arrays left" in printed
