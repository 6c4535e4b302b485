"""The defaults of ONNX's operator BatchNormalization, for the probe: a node without attributes, and its schema."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults

__all__ = ["REFERENCE", "RUNTIME", "operator"]

_INPUTS = ("x", "scale", "B", "input_mean", "input_var")
_OPSET = 15
#: Where the implementations differ: a batch of no elements divides by 0, and the reference computes in the dtype of x.
RUNTIME = {"state, empty batch": "not finite"}
REFERENCE = RUNTIME | {
    "sums (float16 x)": "float16",
    **{f"{what} ({dtype} x)": dtype for what in ("centre", "state") for dtype in ("float16", "bfloat16")},
}


def operator(
    start: Callable[[Any], Callable[[dict[str, Array]], list[Any]]], departures: Mapping[str, str]
) -> Defaults:
    """Return the operator in an implementation.

    Parameters
    ----------
    start : callable
        A model to what runs it: named arrays to a list of outputs.
    departures : mapping of str to str
        Conventions in which the implementation is known to differ.
    """

    def step(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
        training = case.mode == "batch"
        state = case.state or {}
        given = {"scale": (case.gamma, 1.0), "B": (case.beta, 0.0)}
        given |= {"input_mean": (state.get("mean"), 0.0), "input_var": (state.get("var"), 1.0)}
        x = np.array(case.ranks[0].x)
        feeds = {"x": x} | {
            name: np.full(case.channels, first, x.dtype) if value is None else value.astype(x.dtype)
            for name, (value, first) in given.items()
        }
        found = [np.array(v) for v in start(_model(x, training, arguments))(feeds)]
        return found[0], {"mean": found[1], "var": found[2]} if training and case.state is not None else None

    return Defaults(step=step, names=_names, departures=departures)


def _model(x: Array, training: bool, arguments: Mapping[str, Any]) -> Any:
    from onnx import TensorProto, helper

    kind = TensorProto.DOUBLE if x.dtype == np.float64 else TensorProto.FLOAT
    outputs = ("y", "running_mean", "running_var") if training else ("y",)
    node = helper.make_node("BatchNormalization", _INPUTS, outputs, training_mode=int(training), **arguments)

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, kind, x.shape if name in ("x", "y") else ["C"])

    graph = helper.make_graph([node], "batch_norm", [value(v) for v in _INPUTS], [value(v) for v in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


def _names() -> dict[str, str]:
    """By the place of each input in the operator's schema."""
    from onnx import defs

    schema = defs.get_schema("BatchNormalization", _OPSET)
    return dict(zip(("gamma", "beta", "mean", "var"), (v.name for v in schema.inputs[1:]), strict=True))
