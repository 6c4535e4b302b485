"""A file of TorchScript with one batch normalization, as the subject ``torchscript:FILE``.

The module ``BatchNorm1d``, ``2d`` or ``3d`` is put to the test by itself, wherever it is in the file: its epsilon, its
momentum, whether it has a weight and a bias, its dtype and the mode in which it was saved. Their values, those of the
running statistics and the number of channels are those of each case and not of the file.

`torch.jit.load` runs what the file says, and is as safe as the file's author.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.contract import SubjectError
from bnspec_conformance.subjects.frameworks.torch.torch_common import from_torch, to_torch
from bnspec_conformance.subjects.layer_subject import LayerSubject

__all__ = ["ScriptedLayer", "model"]

#: The dimensions of x that each kind takes.
_KINDS = {"BatchNorm1d": (2, 3), "BatchNorm2d": (4,), "BatchNorm3d": (5,)}


@dataclasses.dataclass(kw_only=True)
class ScriptedLayer(LayerSubject):
    """The module of a file.

    Attributes
    ----------
    path : str
    """

    name: str
    scope: Scope
    path: str
    packages: tuple[str, ...] = ("torch",)
    refusals: tuple[type[Exception], ...] = (RuntimeError, TypeError, ValueError)
    dialect: str | None = "torch"

    def build(self, case: Case) -> Any:
        """Return the module, loaded anew, with the case's parameters and running state."""
        import torch

        layer = _only_layer(self.path)
        own = {"gamma": "weight", "beta": "bias"}
        given = {own[name]: torch.nn.Parameter(value) for name, value in self.parameters(case).items()}
        state = {"mean": np.zeros(case.channels), "var": np.ones(case.channels)} | (case.state or {})
        kept = case.ranks[0].x.dtype
        given |= {f"running_{name}": self.to_library(state[name].astype(kept)) for name in ("mean", "var")}
        for name, value in given.items():
            setattr(layer, name, value)
        return layer

    def forward(self, layer: Any, x: Any, training: bool) -> Any:
        """Call it, in the mode in which it was saved."""
        return layer(x)

    def state(self, layer: Any) -> Mapping[str, Any]:
        """Return its running statistics."""
        return {"mean": layer.running_mean, "var": layer.running_var}

    def gradients(self, layer: Any, x: Any, dy: Any, training: bool) -> tuple[Any, Mapping[str, Any]]:
        """Call it under autograd."""
        y = layer(x.requires_grad_())
        y.backward(dy)
        parameters = {"weight": "gamma", "bias": "beta"}
        return y, {"x": x.grad} | {parameters[name]: value.grad for name, value in layer.named_parameters()}

    def to_library(self, array: Array) -> Any:
        """Return a tensor."""
        return to_torch(array)

    def to_numpy(self, value: Any) -> Array:
        """Return the tensor's values."""
        return from_torch(value)


def model(path: str) -> ScriptedLayer:
    """Return the module of a file as a subject.

    Raises
    ------
    SubjectError
        If the file is not there, is no TorchScript, or has not exactly one batch normalization that can be put to the
        test: with running statistics, in float32 or float64, and with a momentum that is a number.
    """
    layer = _only_layer(path)
    held = getattr(layer, "running_mean", None)
    dtype = "none" if held is None else str(held.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise SubjectError(f"{path} has running statistics of dtype {dtype}; expected float32 or float64.")
    momentum, epsilon = _constants(path, layer)
    affine = any(name == "weight" for name, _ in layer.named_parameters())
    training = bool(layer.training)
    options: dict[str, tuple[Any, ...]] = {"epsilon": (epsilon,), "scale": (affine,), "center": (affine,)}
    options |= {"correction": (1,), "averaging": ("exponential",), "single_value": ("raise",)}
    options |= {"nonfinite": ("propagate",)} | ({"decay": (1 - momentum,)} if training else {})
    scope = Scope(
        profiles=frozenset({"core", "running", "grad"} if training else {"inference", "grad"}),
        dtypes=(dtype,),
        ndims=_KINDS[layer.original_name],
        axes="first",
        world=1,
        options=options,
        min_count=2,
        parameter_dtypes=("x",),
    )
    return ScriptedLayer(name=f"torchscript:{Path(path).name}", scope=scope, path=path)


def _only_layer(path: str) -> Any:
    """Return the batch normalization of a file."""
    import torch

    try:
        loaded = torch.jit.load(path, map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise SubjectError(f"{path} cannot be read as TorchScript, or is cut: {why}.") from error
    found = [module for _, module in loaded.named_modules() if module.original_name in _KINDS]
    if len(found) != 1:
        raise SubjectError(
            f"{path} has {len(found)} modules {' or '.join(_KINDS)}; expected one. Save the layer by itself: "
            "torch.jit.script(layer).save(FILE). torch.jit.freeze leaves no modules."
        )
    return found[0]


def _constants(path: str, layer: Any) -> tuple[float, float]:
    """Return momentum and epsilon, which are constants of the module's code."""
    graph = layer.inlined_graph
    nodes = graph.findAllNodes("aten::batch_norm")
    if len(nodes) == 1:
        inputs = list(nodes[0].inputs())
        found = [place.toIValue() for place in inputs[6:8] if place.node().kind() == "prim::Constant"]
        if len(found) == 2:
            return float(found[0]), float(found[1])
    raise SubjectError(
        f"the batch normalization of {path} has no constant momentum and epsilon; expected momentum to be a number. "
        "momentum=None, the cumulative average, is the subject torch-nn's."
    )
