"""``paddle.nn.BatchNorm1D``, ``2D`` and ``3D`` as subjects, on the CPU.

Channels are on axis 1. Parameters and running statistics have the dtype of x, float32 or float64; the CPU has no
kernel for 16 bits. Derivatives are those of ``paddle.grad``. Where a case has no gamma or no beta, the layer has
None, by ``weight_attr=False`` and ``bias_attr=False``.

Paths of the layer are subjects of their own, so that what is wrong on one does not hide the rest: float64, training
with one value per channel, and gradients of a layer that has one of its two parameters. `paddle` is asked about none
of these.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.cases.counts import counts_of
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.contract import SubjectError
from bnspec_conformance.subjects.defaults import HasDefaults
from bnspec_conformance.subjects.frameworks.paddle import paddle_defaults as own
from bnspec_conformance.subjects.frameworks.paddle.paddle_layer import layer_of
from bnspec_conformance.subjects.layer_subject import LayerSubject

__all__ = ["PaddleLayer", "paddle", "paddle_float64", "paddle_one_parameter", "paddle_one_value"]


@dataclasses.dataclass(kw_only=True)
class PaddleLayer(HasDefaults, LayerSubject):
    """The layer on one of its paths.

    Attributes
    ----------
    limit : callable
        A case inside the scope to None, or to the reason why another path is asked about it.
    """

    name: str
    scope: Scope
    limit: Callable[[Case], str | None]
    packages: tuple[str, ...] = ("paddlepaddle",)
    refusals: tuple[type[Exception], ...] = (RuntimeError, TypeError, ValueError)
    dialect: str | None = "paddle"

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason, or that of the path."""
        return super().supports(case) or self.limit(case)

    def build(self, case: Case) -> Any:
        """Return the layer for the rank of x."""
        config = case.config
        options: dict[str, Any] = {"momentum": config.decay, "epsilon": config.epsilon}
        options |= {} if config.scale else {"weight_attr": False}
        options |= {} if config.center else {"bias_attr": False}
        return layer_of(case, **options)

    def forward(self, layer: Any, x: Any, training: bool) -> Any:
        """Call it."""
        (layer.train if training else layer.eval)()
        return layer(x)

    def state(self, layer: Any) -> Mapping[str, Any]:
        """Return its running statistics."""
        return {"mean": layer._mean, "var": layer._variance}

    def gradients(self, layer: Any, x: Any, dy: Any, training: bool) -> tuple[Any, Mapping[str, Any]]:
        """Call it and differentiate; a gradient that Paddle does not have is None."""
        import paddle

        x.stop_gradient = False
        y = self.forward(layer, x, training)
        given = {"x": x, "gamma": layer.weight, "beta": layer.bias}
        given = {name: tensor for name, tensor in given.items() if tensor is not None}
        return y, dict(zip(given, paddle.grad([y], [*given.values()], [dy], allow_unused=True), strict=True))

    def to_library(self, array: Array) -> Any:
        """Return a tensor of its own memory."""
        import paddle

        return paddle.to_tensor(np.array(array, order="C"), place="cpu")

    def to_numpy(self, value: Any) -> Array:
        """Return the tensor's values."""
        return np.array(value.numpy())


def paddle() -> PaddleLayer:
    """Return the layer in float32, but for what the other subjects are about."""
    return _subject("paddle", "float32", _one_of_either)


def paddle_float64() -> PaddleLayer:
    """Return the layer in float64."""
    return _subject("paddle-float64", "float64", _one_of_either)


def paddle_one_value() -> PaddleLayer:
    """Return the layer in float32, with training on one value per channel."""
    return dataclasses.replace(_subject("paddle-one-value", "float32", _one_parameter), defaults=own.ONE_VALUE)


def paddle_one_parameter() -> PaddleLayer:
    """Return the layer in float32, with gradients where it has gamma or beta alone."""
    return _subject("paddle-one-parameter", "float32", _one_value)


def _subject(name: str, dtype: str, limit: Callable[[Case], str | None]) -> PaddleLayer:
    # Both link their own copies of one library; the import of Paddle then ends the process without a word.
    if "tensorflow" in sys.modules and "paddle" not in sys.modules:
        raise SubjectError(
            f"subject {name!r} needs a process that has not imported TensorFlow, which Paddle's import would crash; "
            "ask about it in a command of its own, or with `run --isolate`."
        )
    import paddle as library  # noqa: F401 - what is missing shows here and not in the first case

    scope = Scope(
        profiles=frozenset({"core", "running", "inference", "grad"}),
        dtypes=(dtype,),
        axes="first",
        world=1,
        options={"correction": (0,), "averaging": ("exponential",), "nonfinite": ("propagate",)},
        parameter_dtypes=("x",),
    )
    return PaddleLayer(name=name, scope=scope, limit=limit, defaults=own.LAYER)


def _one_value(case: Case) -> str | None:
    if case.mode == "batch" and any(count == 1 for count in counts_of(case)):
        return "paddle-one-value is asked about training on one value per channel"
    return None


def _one_parameter(case: Case) -> str | None:
    if case.ranks[0].dy is not None and case.config.scale != case.config.center:
        return "paddle-one-parameter is asked about gradients of a layer with gamma or beta alone"
    return None


def _one_of_either(case: Case) -> str | None:
    return _one_value(case) or _one_parameter(case)
