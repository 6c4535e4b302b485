"""A file of ONNX with one node BatchNormalization, as the subject ``onnx:FILE``.

The node is put to the test by itself: its epsilon, momentum and mode, and the opset of the file. Scale, bias, mean and
variance are those of each case and not of the file, and so are the extents of x; its dtype is the one that they have in
the file. onnxruntime runs it, and ONNX's reference where onnxruntime is not installed, as the version says.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnspec_conformance.subjects.contract import SubjectError
from bnspec_conformance.subjects.frameworks.onnx.operator import OnnxOperator, evaluator, reference_errors
from bnspec_conformance.subjects.frameworks.onnx.providers import CPU, errors, starter

__all__ = ["model"]

#: The first opset whose node, of one output, means what it means today, and the first with an attribute for the mode.
_FIRST, _MODES = 7, 14

_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}


def model(path: str, *, provider: str = CPU) -> OnnxOperator:
    """Return the node of a file as a subject.

    Parameters
    ----------
    path : str
    provider : str
        onnxruntime's execution provider.

    Raises
    ------
    SubjectError
        If the file is not there, is no model of ONNX, or has not exactly one node BatchNormalization of floats; or if
        onnxruntime has no such provider.
    """
    loaded = _load(path)
    node, opset = _only_node(path, loaded), _opset(path, loaded)
    given = {a.name: a for a in node.attribute}
    training = "training_mode" in given and bool(given["training_mode"].i)
    if opset < _FIRST or (opset < _MODES and len(node.output) > 1):
        raise SubjectError(
            f"{path} has opset {opset} and a node of {len(node.output)} outputs; expected opset {_MODES} or newer, or, "
            f"from {_FIRST} on, one output. Convert it: onnx.version_converter.convert_version(model, 15)."
        )
    x, scale, *_ = types = [_type(loaded, name) for name in node.input]
    if len(types) != 5 or None in types[1:] or len(set(types[1:])) != 1:
        raise SubjectError(
            f"the node of {path} has inputs of types {', '.join(map(str, types))}; expected five, the last four of one "
            f"of {', '.join(_DTYPES.values())}. Infer them: onnx.shape_inference.infer_shapes(model)."
        )
    dtype = x or scale
    if scale != ("float64" if dtype == "float64" else "float32"):
        raise SubjectError(
            f"the scale of {path} is {scale} beside {dtype} x; expected float32, or float64 beside float64."
        )
    epsilon = given["epsilon"].f if "epsilon" in given else 1e-5
    fixed: dict[str, tuple[Any, ...]] = {"epsilon": (epsilon,)}
    if training:
        fixed["decay"] = (given["momentum"].f if "momentum" in given else 0.9,)
    own = importlib.util.find_spec("onnxruntime") is not None
    if not own and provider != CPU:
        raise SubjectError(
            f"onnxruntime is not installed, which has the provider {provider}; install bnspec[frameworks]."
        )
    return OnnxOperator(
        f"onnx:{Path(path).name}",
        starter(provider) if own else evaluator,
        ("onnxruntime", "onnx") if own else ("onnx",),
        (str(dtype),),
        errors if own else reference_errors,
        profiles=frozenset({"core", "running"} if training else {"inference"}),
        fixed=fixed,
        opset=opset,
    )


def _load(path: str) -> Any:
    """Return the model of a file; arrays that it keeps in other files are not read."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        found = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise SubjectError(f"{path} cannot be read: {error}.") from error
    except DecodeError as error:
        raise SubjectError(f"{path} is no model of ONNX, or cut: {error}.") from error
    if not found.HasField("graph"):
        raise SubjectError(f"{path} is a model without a graph; expected one with a node BatchNormalization.")
    return found


def _only_node(path: str, loaded: Any) -> Any:
    nodes = [node for node in _nodes(loaded.graph) if node.op_type == "BatchNormalization" and not node.domain]
    if len(nodes) != 1:
        raise SubjectError(
            f"{path} has {len(nodes)} nodes BatchNormalization; expected one. onnx.utils.extract_model cuts out a part "
            "of a model; an exporter that folds them into convolutions leaves none."
        )
    return nodes[0]


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of those inside of it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else [*attribute.graphs]:
                yield from _nodes(inner)


def _opset(path: str, loaded: Any) -> int:
    found = [entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx")]
    if not found:
        raise SubjectError(f"{path} names no opset; expected opset_import of ONNX's own operators.")
    return int(found[0])


def _type(loaded: Any, name: str) -> str | None:
    """Return the dtype of a value of a graph by its name, or None where the file does not say."""
    from onnx import TensorProto

    graph = loaded.graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kinds.setdefault(value.name, value.type.tensor_type.elem_type)
    return _DTYPES.get(TensorProto.DataType.Name(kinds[name])) if name in kinds else None
