"""``.onnx``: the initializers of BatchNormalization nodes, and the nodes' attributes.

Initializers have names of their own, so a layer is a node. Its name is what its initializers' names have in common, as
in "bn1.weight" and "bn1.bias", or else the node's.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import numpy_helper

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.options import Options
from bnspec._dialect import Dialect
from bnspec_backends.checkpoints.refusals import needed_template

__all__ = ["Onnx"]

_FIELDS = ("gamma", "beta", "mean", "var")


class Onnx:
    """Models of ONNX."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Look for the first field of a model, its version."""
        if file.read(1) != b"\x08":
            raise ValueError("it does not begin as a model of ONNX does")

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return all initializers; those of layers under the layer's name and the operator's names of its inputs."""
        model = onnx.load_model_from_string(data)
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        found: dict[str, Any] = {}
        known = {}
        used = set()
        for layer, node, inputs in _nodes(model):
            for field, name in zip(_FIELDS, inputs):
                if name not in held:
                    raise ValueError(f"its array {name!r} of layer {layer!r} is no initializer")
                used.add(name)
                found[f"{layer}/{row.names[field]}"] = _array(held[name])
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            arguments = {"epsilon": _shortest(row.epsilon, attributes.get("epsilon"))}
            arguments["momentum"] = _shortest(row.momentum_of(row.decay), attributes.get("momentum"))
            known[layer] = Options.of(layer, arguments, row)
        found |= {name: _array(tensor) for name, tensor in held.items() if name not in used}
        return Checkpoint(found, known)

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return the template with the values and attributes of its layers."""
        do = "Export the model once and pass it as --template."
        model = onnx.load_model_from_string(needed_template(template, ".onnx", "graph", do))
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        written: dict[str, Any] = {}
        for layer, node, inputs in _nodes(model):
            for field, name in zip(_FIELDS, inputs):
                value = given.arrays[f"{layer}/{row.names[field]}"]
                if name in written and not np.array_equal(written[name], value):
                    raise ValueError(f"the template's array {name!r} belongs to two layers, which now differ")
                written[name] = value
                held[name].CopyFrom(numpy_helper.from_array(value, name))
            options = given.layers.get(layer, Options())._replace(center=None, scale=None)
            kept = [a for a in node.attribute if a.name not in options.in_words_of(row)]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in options.in_words_of(row).items())
        return bytes(model.SerializeToString(deterministic=True))


def _nodes(model: Any) -> Iterator[tuple[str, Any, list[str]]]:
    """Every BatchNormalization of the main graph: its layer's name, itself, and its initializers' names."""
    taken: set[str] = set()
    for number, node in enumerate(n for n in model.graph.node if n.op_type == "BatchNormalization"):
        inputs = list(node.input[1:5])
        parts = [re.split(r"(?<=[./])", name)[:-1] for name in inputs]
        common = [same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*parts))]
        layer = "".join(common)[:-1] or node.name or f"BatchNormalization_{number}"
        if layer in taken:
            layer = node.name or f"BatchNormalization_{number}"
        taken.add(layer)
        yield layer, node, inputs


def _array(tensor: Any) -> Any:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(f"its array {tensor.name!r} lies in another file")
    return np.array(numpy_helper.to_array(tensor))


def _shortest(default: float, attribute: float | None) -> float:
    """The number that was written: attributes are float32, in which 1e-5 is 9.99999974737875e-06."""
    return default if attribute is None else float(str(np.float32(attribute)))
