"""Model files as subjects: what a file fixes limits the scope, and a file that will not do is an error in words."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import compare

from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.subjects import SubjectError, find_subject
from bnspec_conformance.trials.violations.violation import Violation


def case_for(made: Any, **fields: Any) -> Case:
    """A case of what the file fixes, with five channels, which is no number of channels of a file here."""
    own = {name: values[0] for name, values in made.scope.options.items()}
    case = example(config(**own | {"axis": 1} | fields), [(4, 5, 2, 3)])
    kept = np.dtype(made.scope.dtypes[0])
    rank = RankInputs(case.ranks[0].x.astype(kept), case.ranks[0].dy.astype(kept))
    given = {name: getattr(case, name).astype(kept) for name in ("gamma", "beta") if getattr(case, name) is not None}
    mode = "batch" if "core" in made.scope else "inference"
    state = {name: value.astype(kept) for name, value in case.state.items()}
    more = {"dmean": None, "dvar": None, "state": state, "mode": mode, "update": mode == "batch"}
    fitted: Case = made.scope.fit(dataclasses.replace(case, ranks=(rank,), **given, **more))
    return fitted


# --- ONNX -------------------------------------------------------------------------------------------------------------


def save_onnx(path: Path, *, nodes: int = 1, training: bool = False, opset: int = 15, **attributes: float) -> str:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    held = [onnx.numpy_helper.from_array(np.ones(3, "float32"), name) for name in "sbmv"]
    made, last = [onnx.helper.make_node("Relu", ["x"], ["r"])], "r"
    mode = {"training_mode": int(training)} if opset >= 14 else {}
    for number in range(nodes):
        outputs = [f"{name}{number}" for name in (("y", "rm", "rv") if training else ("y",))]
        made.append(onnx.helper.make_node("BatchNormalization", [last, *"sbmv"], outputs, **mode, **attributes))
        last = outputs[0]
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    shape = ["N", 3, "H", "W"]
    inner = [value("r", kind, shape)]
    graph = onnx.helper.make_graph(
        made, "g", [value("x", kind, shape)], [value(last, kind, shape)], held, value_info=inner
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return f"onnx:{path}"


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_an_onnx_file_of_inference(tmp_path: Path, opset: int) -> None:
    asked = save_onnx(tmp_path / "inference.onnx", opset=opset, epsilon=0.25)
    made: Any = find_subject(asked)
    assert (made.name, made.asked) == ("onnx:inference.onnx", asked)
    assert "core" not in made.scope
    assert made.scope.options["epsilon"] == (0.25,)
    case = case_for(made)
    assert made.supports(case) is None
    compare(made, case, "y")
    assert "epsilon=0.5" in str(made.supports(case_for(made, epsilon=0.5)))
    with pytest.raises(Violation, match="y is off"):  # the node computes with what the file has, whatever is asked
        compare(made, dataclasses.replace(case, gamma=2 * case.gamma), "y", outcome=made.run(case))


def test_an_onnx_file_of_training(tmp_path: Path) -> None:
    made = find_subject(save_onnx(tmp_path / "training.onnx", training=True, momentum=0.75))
    assert made.scope.profiles == {"core", "running"}
    assert made.scope.options["decay"] == (0.75,)
    compare(made, case_for(made), "y", "state")


def test_onnx_s_reference_runs_a_file_where_onnxruntime_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = save_onnx(tmp_path / "model.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    made = find_subject(asked)
    assert made.version().startswith("onnx ")
    compare(made, case_for(made), "y")
    with pytest.raises(SubjectError, match="onnxruntime is not installed"):
        find_subject(f"{asked}@provider=CUDAExecutionProvider")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"nodes": 0}, "has 0 nodes BatchNormalization; expected one"),
        ({"nodes": 2}, "has 2 nodes BatchNormalization; expected one"),
        ({"opset": 6}, "has opset 6 and a node of 1 outputs; expected opset 14"),
    ],
)
def test_an_onnx_file_that_will_not_do(tmp_path: Path, made: dict[str, Any], says: str) -> None:
    asked = save_onnx(tmp_path / "model.onnx", **made)
    before = (tmp_path / "model.onnx").read_bytes()
    with pytest.raises(SubjectError, match=says):
        find_subject(asked)
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_an_onnx_file_that_is_cut_or_none(tmp_path: Path) -> None:
    save_onnx(tmp_path / "model.onnx")
    whole = (tmp_path / "model.onnx").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "cut.onnx").write_bytes(whole[:size])
        with pytest.raises(SubjectError, match=r"cut\.onnx"):
            find_subject(f"onnx:{tmp_path / 'cut.onnx'}")
    with pytest.raises(SubjectError, match="cannot be read"):
        find_subject(f"onnx:{tmp_path / 'missing.onnx'}")


# --- TorchScript ------------------------------------------------------------------------------------------------------


def save_script(path: Path, module: Any) -> str:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.jit.script(module).save(str(path))
    return f"torchscript:{path}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_in_training_and_in_inference(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layer = torch.nn.BatchNorm2d(3, momentum=0.25, eps=0.25)
    made = find_subject(save_script(tmp_path / "training.pt", layer))
    assert made.name == "torchscript:training.pt"
    assert (made.scope.profiles, made.scope.ndims) == ({"core", "running", "grad"}, (4,))
    assert (made.scope.options["decay"], made.scope.options["epsilon"]) == ((0.75,), (0.25,))
    compare(made, case_for(made), "y", "state", "dx", "dgamma", "dbeta")
    wide = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3, affine=False)).double().eval()
    made = find_subject(save_script(tmp_path / "inference.pt", wide))
    assert made.scope.dtypes == ("float64",)
    assert made.scope.options["scale"] == (False,)
    compare(made, case_for(made), "y", "dx")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_that_will_not_do(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    for module, says in (
        (nn.Linear(2, 2), "has 0 modules BatchNorm1d or BatchNorm2d or BatchNorm3d; expected one"),
        (nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)), "has 2 modules"),
        (nn.BatchNorm1d(2, momentum=None), "no constant momentum and epsilon"),
        (nn.BatchNorm1d(2, track_running_stats=False), "running statistics of dtype none; expected float32 or float64"),
        (nn.BatchNorm1d(2).half(), "dtype float16; expected float32 or float64"),
    ):
        with pytest.raises(SubjectError, match=says):
            find_subject(save_script(tmp_path / "model.pt", module))
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("cut.pt", "missing.pt"):
        with pytest.raises(SubjectError, match="cannot be read as TorchScript, or is cut"):
            find_subject(f"torchscript:{tmp_path / name}")
