"""The command ``bnspec convert``: whole checkpoints, what is left as it is, the report, and files that are refused."""

import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import bits

from bnspec._cli import main
from bnspec._conversion.files import GROUP
from bnspec._conversion.variance import inference_moves

RNG = np.random.default_rng(5)


def layer(prefix: str, channels: int = 4, **changed: Any) -> dict[str, Any]:
    """Return the variables of torch's layer."""
    values = RNG.uniform(0.5, 2, (4, channels)).astype(np.float32)
    made = dict(zip(("weight", "bias", "running_mean", "running_var"), values))
    made |= {"num_batches_tracked": np.asarray(9)} | changed
    return {f"{prefix}{name}": value for name, value in made.items() if value is not None}


def network() -> dict[str, Any]:
    return {
        "conv.weight": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        **layer("bn1."),
        "norm.weight": np.ones(5, np.float32),  # of a layer norm
        "norm.bias": np.zeros(5, np.float32),
        **layer("block.0.bn2.", 6, weight=None, bias=None),
        "steps": np.asarray(12),
    }


def npz(path: Path, arrays: dict[str, Any], compressed: bool = False) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def convert(model: Path, out: Path, *options: str, source: str = "torch", target: str = "flax") -> int:
    return main(["convert", str(model), "--from", source, "--to", target, "-o", str(out), *options])


def read(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{out}.layers.json").read_text())
    return found


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line of a refusal."""
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert re.fullmatch(r"bnspec: .*; expected .* \[BN-[A-Z]+-\d+\]\. .*\.", line), line
    return line


def test_layers_move_and_all_else_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = network()
    path, out = npz(tmp_path / "model.npz", given), tmp_path / "out.npz"
    before = path.read_bytes()
    assert convert(path, out) == 0
    made = read(out)
    assert path.read_bytes() == before
    wanted = {
        "conv.weight": given["conv.weight"],
        "params/bn1/scale": given["bn1.weight"],
        "params/bn1/bias": given["bn1.bias"],
        "batch_stats/bn1/mean": given["bn1.running_mean"],
        "batch_stats/bn1/var": given["bn1.running_var"],
        "norm.weight": given["norm.weight"],
        "norm.bias": given["norm.bias"],
        "batch_stats/block/0/bn2/mean": given["block.0.bn2.running_mean"],
        "batch_stats/block/0/bn2/var": given["block.0.bn2.running_var"],
        "steps": given["steps"],
    }
    assert list(made) == list(wanted)
    assert bits(made) == bits(wanted)
    assert told(out) == {
        "dialect": "flax",
        "layers": {
            "bn1": {"epsilon": 1e-5, "momentum": 0.9, "use_bias": True, "use_scale": True},
            "block/0/bn2": {"epsilon": 1e-5, "momentum": 0.9, "use_bias": False, "use_scale": False},
        },
    }
    text = capsys.readouterr().out
    assert "2 layers converted, 4 other arrays left as they are." in text
    assert "dropped  count" in text
    assert "flax keeps no number of updates" in text
    assert "taken are torch's defaults, eps=1e-05 and momentum=0.1" in text
    assert "1/sqrt(var) by 1.6 % for n=32" in text


def test_options_travel_in_the_other_frameworks_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {f"a/{n}": v for n, v in zip(("gamma", "beta", "moving_mean", "moving_variance"), np.ones((4, 3)))}
    path, out, back = npz(tmp_path / "k.npz", given), tmp_path / "t.npz", tmp_path / "b.npz"
    config = tmp_path / "k.json"
    content = {"dialect": "keras", "layers": {"a": {"epsilon": 1e-3, "momentum": 0.8, "axis": -1}}}
    config.write_text(json.dumps(content))
    assert convert(path, out, "--config", str(config), "--count", "keep", source="keras", target="torch") == 0
    assert told(out)["layers"] == {"a": {"eps": 1e-3, "momentum": 0.2, "affine": True}}
    assert "defaults" not in capsys.readouterr().out
    options = ("--config", f"{out}.layers.json", "--count", "keep")
    assert convert(out, back, *options, source="torch", target="keras") == 0
    assert told(back)["layers"] == {"a": {"epsilon": 1e-3, "momentum": 0.8, "center": True, "scale": True}}
    assert bits(read(back)) == bits(given)


def test_the_report_says_by_how_much_a_variance_and_inference_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = layer("bn.")
    path, out = npz(tmp_path / "m.npz", given), tmp_path / "o.npz"
    assert convert(path, out, "--count", "32") == 0
    made = read(out)["batch_stats/bn/var"]
    assert np.array_equal(made, (given["bn.running_var"].astype(np.float64) * (31 / 32)).astype(np.float32))
    moved = inference_moves(given["bn.running_var"], made, 1e-5)
    assert moved == pytest.approx(np.sqrt(32 / 31) - 1, rel=1e-4)
    text = capsys.readouterr().out
    assert f"times 31/32; inference moves by up to {moved:.2g} of x - mean" in text
    assert "until training goes on" not in text


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wraps_a_model_is_no_part_of_a_layers_name(wrapper: str, tmp_path: Path) -> None:
    path, out = npz(tmp_path / "m.npz", layer(f"{wrapper}net.bn.")), tmp_path / "o.npz"
    assert convert(path, out) == 0
    assert list(told(out)["layers"]) == ["net/bn"]


def test_dumps_of_tensorpack(tmp_path: Path) -> None:
    names = ("gamma", "beta", "mean/EMA", "variance/EMA")
    given = {f"conv1/bn/{n}:0": v for n, v in zip(names, RNG.uniform(1, 2, (4, 3)).astype("f"))}
    given |= {"conv1/W:0": np.ones((3, 3)), "global_step:0": np.asarray(1)}
    path, out = npz(tmp_path / "m.npz", given), tmp_path / "o.npz"
    assert convert(path, out, source="tensorpack", target="torch") == 0
    assert set(read(out)) == {"conv1/W:0", "global_step:0", *layer("conv1.bn.")}


def test_layers_are_chosen_and_renamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = network()
    path, out = npz(tmp_path / "m.npz", given), tmp_path / "o.npz"
    assert convert(path, out, "--only", "bn*", "--rename", "bn1=BatchNorm_0") == 0
    assert list(told(out)["layers"]) == ["BatchNorm_0"]
    made = read(out)
    assert {n for n in given if n.startswith("block")} <= set(made)
    capsys.readouterr()
    assert convert(path, out, "--rename", "bn3=x") == 2
    assert "new names for 'bn3'; expected one of the layers bn1, block.0.bn2" in refused(capsys)
    assert convert(path, out, "--rename", "bn1=x", "--rename", "block.0.bn2=x") == 2
    assert "two layers of the target that would be called 'x'" in refused(capsys)
    assert convert(path, out, "--rename", "bn1") == 2
    assert "--rename bn1; expected OLD=NEW" in refused(capsys)


def test_other_arrays_go_where_a_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out, file = npz(tmp_path / "m.npz", network()), tmp_path / "o.npz", tmp_path / "places.json"
    places = {"conv.weight": {"name": "params/conv/kernel", "axes": [2, 3, 1, 0]}, "steps": {}}
    file.write_text(json.dumps({"arrays": places}))
    assert convert(model, out, "--others", str(file)) == 0
    assert "2 layers converted, 2 other arrays placed, 2 other arrays left as they are." in capsys.readouterr().out
    before, made = read(model), read(out)
    assert "conv.weight" not in made
    assert bits(made["params/conv/kernel"]) == bits(before["conv.weight"].transpose(2, 3, 1, 0).copy())
    assert bits(made["norm.weight"]) == bits(before["norm.weight"])

    back = tmp_path / "b.npz"
    places = {"params/conv/kernel": {"name": "conv.weight", "axes": [3, 2, 0, 1]}}
    file.write_text(json.dumps({"arrays": places}))
    assert convert(out, back, "--others", str(file), source="flax", target="torch") == 0
    assert bits(read(back)["conv.weight"]) == bits(before["conv.weight"])

    npz(tmp_path / "t.npz", made)
    template = ("--template", str(tmp_path / "t.npz"), "--others", str(file))
    file.write_text(json.dumps({"arrays": {"conv.weight": {"name": "params/conv/kernel", "axes": [2, 3, 1, 0]}}}))
    assert convert(npz(model, network()), back, *template) == 0
    assert bits(read(back)["params/conv/kernel"]) == bits(read(model)["conv.weight"].transpose(2, 3, 1, 0).copy())
    assert bits(read(back)["norm.weight"]) == bits(made["norm.weight"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "text that is no JSON"),
        ("[]", 'JSON without an object "arrays"'),
        ('{"arrays": {"steps": 1}}', "the place of 'steps', which is no object of name and axes"),
        ('{"arrays": {"steps": {"axis": 1}}}', "the place of 'steps' with the unknown word 'axis'"),
        ('{"arrays": {}, "layers": {}}', "the unknown word 'layers'"),
        ('{"arrays": {"steps": {"name": 1}}}', "a name for 'steps' that is no text"),
        ('{"arrays": {"conv.weight": {"axes": [0, 0, 1, 2]}}}', "axes of 'conv.weight' that are not each of 0, 1, "),
        ('{"arrays": {"conv.weight": {"axes": [true, false]}}}', "axes of 'conv.weight' that are not each of 0, 1, "),
        ('{"arrays": {"conv.weight": {"axes": [1, 0]}}}', "2 axes for 'conv.weight' of shape (4, 3, 3, 3); expected 4"),
        ('{"arrays": {"conv": {}}}', "belong to no layer of batch normalization: 'conv.weight', 'norm.weight', "),
        ('{"arrays": {"bn1.bias": {}}}', "places of 'bn1.bias'; expected arrays of the source that belong to no layer"),
        ('{"arrays": {"steps": {"name": "norm.bias"}}}', "two arrays of the target that would be called 'norm.bias'"),
    ],
)
def test_places_that_cannot_be_meant_are_refused(
    text: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = npz(tmp_path / "m.npz", network()), tmp_path / "places.json"
    file.write_text(text)
    assert convert(model, tmp_path / "o.npz", "--others", str(file)) == 2
    told = refused(capsys)
    assert part in told
    assert "JSON" not in part or str(file) in told
    assert not (tmp_path / "o.npz").exists()


def test_the_report_names_what_was_placed_and_what_was_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = npz(tmp_path / "m.npz", network()), tmp_path / "places.json"
    places = {"conv.weight": {"name": "params/conv/kernel", "axes": [2, 3, 1, 0]}}
    file.write_text(json.dumps({"arrays": places}))
    assert convert(model, tmp_path / "o.npz", "--others", str(file)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^conv.weight +params/conv/kernel +placed +4x3x3x3 +3x3x3x4 +axes 2, 3, 1, 0$", printed, re.M)
    assert "Left as they are: norm.weight, norm.bias, steps." in printed


def test_arguments_beside_a_model_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out, back = npz(tmp_path / "m.npz", layer("bn.")), tmp_path / "o.npz", tmp_path / "b.npz"
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"layers": {"bn": {"eps": 0.25, "momentum": 0.5}}}))
    assert convert(model, out, "--config", str(config)) == 0
    capsys.readouterr()
    assert convert(out, back, source="flax", target="torch") == 0
    assert f"The arguments of its layers are those of {out}.layers.json." in capsys.readouterr().out
    assert told(back)["layers"]["bn"] == {"eps": 0.25, "momentum": 0.5, "affine": True}
    assert convert(out, back, source="haiku", target="torch") == 2
    assert f"{out}.layers.json: options of the dialect 'flax' for a checkpoint of haiku" in refused(capsys)


def test_the_report_says_what_of_a_template_gives_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, template, out = npz(tmp_path / "m.npz", layer("bn.")), tmp_path / "t.npz", tmp_path / "o.npz"
    npz(template, {f"batch_stats/bn/{n}": np.ones(4, "f") for n in ("mean", "var")}
        | {f"params/bn/{n}": np.ones(4, "f") for n in ("scale", "bias")})  # fmt: skip
    config = tmp_path / "t.json"
    config.write_text(json.dumps({"layers": {"bn": {"epsilon": 0.25}}}))
    assert convert(model, out, "--template", str(template), "--template-config", str(config)) == 0
    printed = capsys.readouterr().out
    assert (
        "bn: the source does not say eps and momentum; taken are torch's defaults, eps=1e-05 and momentum=0.1."
        in printed
    )
    assert "bn: the template's epsilon=0.25 becomes epsilon=1e-05." in printed
    assert told(out)["layers"]["bn"]["epsilon"] == 1e-5
    npz(template, {"kernel": np.ones(4, "f")})
    assert convert(model, out, "--template", str(template)) == 2
    assert "a template without a layer of flax; expected a file of the target's own model" in refused(capsys)


def test_names_that_cannot_be_meant_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = npz(tmp_path / "m.npz", network())
    assert convert(model, tmp_path / "o.npz", "--only", "bn2") == 2
    assert "no layer whose name is like 'bn2'; expected a pattern of one of the layers bn1, block.0.bn2" in refused(
        capsys
    )
    assert convert(model, tmp_path / "none" / "o.npz") == 2
    assert f"{tmp_path / 'none'}: there is no such folder to write a file into" in capsys.readouterr().err
    assert convert(model, tmp_path / "o.npz", "--rename", "bn1=x", source="tf-keras") == 2
    assert "none of them a layer of tf_keras" in refused(capsys)


def test_a_template_gives_names_and_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = layer("bn.")
    path, out = npz(tmp_path / "m.npz", given), tmp_path / "o.npz"
    own = {"params/BatchNorm_0/scale": np.zeros(4, "f"), "params/BatchNorm_0/bias": np.zeros(4, "f"),
           "params/Dense_0/kernel": np.ones((2, 2), "f"), "batch_stats/BatchNorm_0/mean": np.zeros(4, "f"),
           "batch_stats/BatchNorm_0/var": np.zeros(4, "f")}  # fmt: skip
    template = npz(tmp_path / "t.npz", own)
    assert convert(path, out, "--template", str(template)) == 2
    assert "layers 'bn' that the template does not have; expected its layers 'BatchNorm_0'" in refused(capsys)
    assert convert(path, out, "--template", str(template), "--rename", "bn=BatchNorm_0") == 0
    made = read(out)
    assert list(made) == list(own)
    assert bits(made["batch_stats/BatchNorm_0/var"]) == bits(given["bn.running_var"])
    assert bits(made["params/Dense_0/kernel"]) == bits(own["params/Dense_0/kernel"])
    capsys.readouterr()
    for value, text in (
        (np.zeros(5, "f"), "'params/BatchNorm_0/bias' has shape (4,); expected shape (5,), as in the template"),
        (np.zeros(4), "'params/BatchNorm_0/bias' has dtype float32; expected dtype float64, as in the template"),
        (None, "'BatchNorm_0' has the variables ['bias', 'mean', 'scale', 'var']; expected ['mean', 'scale', 'var']"),
    ):
        other = {n: value if n.endswith("bias") else v for n, v in own.items() if value is not None or n[-4:] != "bias"}
        npz(template, other)
        assert convert(path, out, "--template", str(template), "--rename", "bn=BatchNorm_0") == 2
        assert text in refused(capsys)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bn1.running_var": None}, "layer 'bn1' has 'bn1.num_batches_tracked', 'bn1.running_mean' and not both"),
        ({"bn1.bias": np.zeros(3, "f")}, "'bn1.bias' has shape (3,); expected 4 channels"),
        ({"bn1.weight": np.zeros((4, 1), "f")}, "'bn1.weight' has shape (4, 1)"),
        ({"bn1.running_var": np.full(4, -1.0, "f")}, "'bn1.running_var' has an element below 0"),
        ({"bn1.running_mean": np.zeros(4, "i4")}, "'bn1.running_mean' has dtype int32"),
        (
            {"module.bn1.running_mean": np.zeros(4, "f")},
            "two layers of the name 'bn1': 'bn1.running_mean' and 'module.bn1.running_mean'",
        ),
        ({"params/bn1/scale": np.zeros(4, "f")}, "two arrays of the target that would be called 'params/bn1/scale'"),
    ],
)
def test_broken_layers_are_refused_by_the_arrays_name(
    change: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {name: value for name, value in (network() | change).items() if value is not None}
    path, out = npz(tmp_path / "m.npz", given), tmp_path / "o.npz"
    out.write_bytes(b"old")
    assert convert(path, out) == 2
    assert text in refused(capsys)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.npz", "o.npz"]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_truncated_and_foreign_files_are_refused(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / f"m{suffix}", tmp_path / "o.npz"
    whole = content(suffix, network())
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:3], b"", b"\0" * 100, b"x" * len(whole)):
        path.write_bytes(data)
        assert convert(path, out) == 2
        line = refused(capsys)
        assert f"{str(path)!r} cannot be read, of {len(data)} bytes: " in line
        assert not out.exists()
    path.write_bytes(whole)
    assert convert(path, out) == 0


def content(suffix: str, arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, **arrays)
    elif suffix == ".safetensors":
        return bytes(pytest.importorskip("safetensors.numpy").save(arrays))
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(np.array(v)) for name, v in arrays.items()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_two_gigabytes_of_zeros_are_no_checkpoint(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content(suffix, {})  # skips where the library is missing
    path = tmp_path / f"zeros{suffix}"
    with open(path, "wb") as file:
        os.truncate(file.fileno(), 2 << 30)
    assert convert(path, tmp_path / "o.npz") == 2
    assert f"cannot be read, of {2 << 30} bytes" in refused(capsys)


def test_zeros_that_a_small_file_inflates_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 29,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("bn.running_var.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(2 << 7):
                member.write(bytes(8 << 20))
    assert convert(path, tmp_path / "o.npz") == 2
    assert "its array 'bn.running_var' has 2147483776 bytes in" in refused(capsys)


def test_zeros_that_a_view_of_torch_claims_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"bn.running_var": torch.zeros(1).expand(1 << 29)}, tmp_path / "m.pt")
    assert convert(tmp_path / "m.pt", tmp_path / "o.npz") == 2
    assert "its array 'bn.running_var' has 2147483648 bytes in 4 of the file" in refused(capsys)


class Evil:
    """Pickled, it would make a file where it is read."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch = pytest.importorskip("torch")
    torch.save({"bn.running_mean": Evil()}, "m.pt")
    np.savez("m.npz", **{"bn.running_mean": np.array([Evil()], object)})
    for name in ("m.pt", "m.npz"):
        assert convert(Path(name), Path("o.npz")) == 2
        refused(capsys)
    assert sorted(os.listdir()) == ["m.npz", "m.pt"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_of_torch_there_and_back_to_the_bit(suffix: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4, affine=False)
    )
    model(torch.randn(2, 3, 5, 5))
    first, out, back = (tmp_path / f"{name}{suffix}" for name in ("first", "out", "back"))
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": torch.nn.DataParallel(model).state_dict()}, first)
    else:
        safetensors.save_file(model.state_dict(), first)
    assert convert(first, out, "--count", "keep", target="haiku") == 0
    assert convert(out, back, "--count", "keep", "--config", f"{out}.layers.json", source="haiku", target="torch") == 0
    state = torch.load(back, weights_only=True) if suffix == ".pt" else safetensors.load_file(back)
    state = {name.removeprefix("module."): v for name, v in state.items()}
    assert bits(state) == bits({name: model.state_dict()[name] for name in state})
    assert set(state) == set(model.state_dict())


def test_sixteen_bits_keep_their_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    pytest.importorskip("safetensors")
    model = torch.nn.BatchNorm2d(4, dtype=torch.bfloat16)
    torch.save({f"bn.{n}": v for n, v in model.state_dict().items()}, tmp_path / "m.pt")
    out = tmp_path / "o.safetensors"
    assert convert(tmp_path / "m.pt", out, "--count", "8") == 0
    assert convert(out, tmp_path / "b.pt", "--count", "8", source="flax", target="torch") == 0
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    assert {v.dtype for v in made.values()} == {torch.bfloat16, torch.int64}
    capsys.readouterr()
    assert convert(tmp_path / "m.pt", tmp_path / "o.npz") == 2
    assert "has dtype bfloat16; expected a dtype that a .npz can name" in refused(capsys)


@pytest.mark.parametrize("where", ["same", "link", "config", "beside"])
def test_what_is_read_is_never_written(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = npz(tmp_path / "m.npz", network())
    config = tmp_path / "o.npz.layers.json"
    config.write_text("{}")
    before = path.read_bytes()
    (tmp_path / "link.npz").symlink_to(path)
    out = {"same": path, "link": tmp_path / "link.npz", "config": config, "beside": tmp_path / "o.npz"}[where]
    assert convert(path, out, "--config", str(config)) == 2
    assert "as the file to write; expected a file that is not read" in refused(capsys)
    assert path.read_bytes() == before
    assert config.read_text() == "{}"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "text that is no JSON"),
        ("[]", 'JSON without an object "layers"'),
        ('{"layers": {"bn1": 3}}', "a layer whose arguments are no object"),
        ('{"dialect": "keras"}', "options of the dialect 'keras' for a checkpoint of torch"),
        ('{"names": [1]}', '"names" that is no list of strings'),
        ('{"layers": {"bn1": {"epsilon": 1}}}', "'epsilon' of layer 'bn1', for which torch has 'eps'"),
        ('{"layers": {}, "layerz": {}}', "the unknown word 'layerz'"),
        ('{"layers": {"bn7": {"eps": 1}}}', "options of the layers 'bn7'; expected layers that the file has"),
        ('{"layers": {"bn1": {"eps": -1}}}', "eps of layer 'bn1' is -1; expected a finite number >= 0"),
        ('{"layers": {"bn1": {"momentum": 2}}}', "momentum of layer 'bn1' is 2; expected a number in [0, 1]"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    text: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = npz(tmp_path / "m.npz", network()), tmp_path / "c.json"
    config.write_text(text)
    assert convert(path, tmp_path / "o.npz", "--config", str(config)) == 2
    assert part in refused(capsys)


def test_names_that_are_unknown_are_refused_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "m.npz", network())
    assert convert(path, tmp_path / "o.caffemodel") == 2
    assert "has the suffix 'caffemodel'; expected one of those that an installed package reads: .bin" in refused(capsys)
    assert convert(path, tmp_path / "o.npz", target="caffe") == 2
    assert "unknown dialect 'caffe'" in refused(capsys)
    assert convert(path, tmp_path / "o.npz", source="keras") == 2
    assert "none of them a layer of keras; expected names that end in moving_mean and moving_variance" in refused(
        capsys
    )
    assert convert(path, tmp_path / "o.npz", "--count", "all") == 2
    assert "count is 'all'" in refused(capsys)
    assert main(["convert", str(tmp_path / "none.npz"), "--from", "torch", "--to", "flax", "-o", "o.npz"]) == 2
    assert "none.npz" in capsys.readouterr().err


def test_a_missing_library_names_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    path = npz(tmp_path / "m.npz", network())
    for suffix, package, extra in (("msgpack", "flax", "checkpoints"), ("pt", "torch", "torch")):
        for name in [n for n in sys.modules if n == f"bnspec_backends.checkpoints.{package}"]:
            monkeypatch.delitem(sys.modules, name)
        for name in {package, *(n for n in sys.modules if n.startswith(f"{package}."))}:  # a part may be loaded already
            monkeypatch.setitem(sys.modules, name, None)
        assert convert(path, tmp_path / f"o.{suffix}") == 2
        assert f"pip install bnspec[{extra}]" in refused(capsys)


def test_every_format_of_the_project_is_an_entry_point() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = project["project"]["entry-points"][GROUP]
    assert set(declared) == {"bin", "eqx", "h5", "keras", "msgpack", "npz", "onnx", "orbax", "pt", "pth", "safetensors"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--axis", "4"), "axis=4 and rank=4; expected an axis of -4 to 3"),
        (("--rank", "1"), "rank is 1; expected an integer >= 2"),
        (("--count", "1"), "count is 1; expected an integer >= 2"),
        (("--count", "-3"), "count is -3; expected an integer >= 2"),
    ],
)
def test_numbers_out_of_range_are_refused(
    options: tuple[str, ...], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "m.npz", network())
    assert convert(path, tmp_path / "o.npz", *options, target="haiku") == 2
    assert text in refused(capsys)


def test_a_cumulative_average_of_torch_has_no_decay_to_move(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, config = npz(tmp_path / "m.npz", network()), tmp_path / "c.json"
    config.write_text('{"layers": {"bn1": {"momentum": null}}}')
    assert convert(path, tmp_path / "o.npz", "--config", str(config)) == 2
    assert "momentum of layer 'bn1' is None; expected a number in [0, 1]" in refused(capsys)


def test_an_array_that_numpy_does_not_have_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a.b": torch.zeros(3, dtype=torch.float8_e4m3fn)}, tmp_path / "m.pt")
    assert convert(tmp_path / "m.pt", tmp_path / "o.npz") == 2
    assert "its array 'a.b' has the dtype torch.float8_e4m3fn" in refused(capsys)
