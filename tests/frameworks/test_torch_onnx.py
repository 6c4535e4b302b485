"""What ONNX makes of bnspec's modules for torch: its own BatchNormalization, which every runtime knows."""

import io
from typing import Any

import pytest
from installed_here import installed

torch = pytest.importorskip("torch", reason="torch is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

X = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
NODES = {1: ["BatchNormalization"], -1: ["Transpose", "BatchNormalization", "Transpose"]}


@pytest.mark.parametrize("axis", NODES)
@pytest.mark.parametrize("exporter", ["torch.jit.trace", "torch.export"])
def test_a_module_is_one_node(exporter: str, axis: int) -> None:
    import bnspec.torch

    newer = exporter == "torch.export"
    if newer and not installed("onnxscript"):
        pytest.skip("torch's newer exporter needs onnxscript")
    module = bnspec.torch.BatchNorm(X.shape[axis], axis=axis)
    module(X * 2 + 1)
    module.eval()
    file = io.BytesIO()
    torch.onnx.export(module, (X,), file, dynamo=newer)
    graph = onnx.load_from_string(file.getvalue()).graph
    assert [node.op_type for node in graph.node] == NODES[axis]
    runtime: Any = pytest.importorskip("onnxruntime").InferenceSession(file.getvalue())
    (found,) = runtime.run(None, {runtime.get_inputs()[0].name: X.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(X).detach(), rtol=1e-5, atol=1e-5)
