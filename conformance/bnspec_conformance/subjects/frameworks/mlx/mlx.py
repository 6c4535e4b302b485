"""``mlx.nn.BatchNorm`` as a subject, on the CPU.

Channels are on the last axis, of x of 2 to 4 dimensions. Parameters and running statistics have the dtype of x, as
``layer.set_dtype`` makes them: with float32 ones, y of 16-bit x comes back in float32. 16 bits are a subject of their
own, so that what is wrong there does not hide the rest. Weight and bias are there together or not at all. Derivatives
are those of ``mlx.core.vjp`` and ``jvp``.

Empty arrays are not put to it: an operation that broadcasts one does not end in most processes
(docs/findings/mlx-empty-batch-hangs.md). Without channels nothing is broadcast, and it ends.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.defaults import Defaults, HasDefaults
from bnspec_conformance.subjects.frameworks.mlx import mlx_defaults as own
from bnspec_conformance.subjects.frameworks.mlx.mlx_layer import layer_of, to_mlx, to_numpy
from bnspec_conformance.subjects.layer_subject import LayerSubject

__all__ = ["MlxLayer", "mlx", "mlx_16_bit"]


@dataclasses.dataclass(kw_only=True)
class MlxLayer(HasDefaults, LayerSubject):
    """The layer in some dtypes."""

    name: str
    scope: Scope
    packages: tuple[str, ...] = ("mlx",)
    refusals: tuple[type[Exception], ...] = (RuntimeError, TypeError, ValueError)
    dialect: str | None = "mlx"

    def build(self, case: Case) -> Any:
        """Return the layer."""
        config = case.config
        return layer_of(case, case.ranks[0].x.dtype, eps=config.epsilon, momentum=1 - config.decay, affine=config.scale)

    def forward(self, layer: Any, x: Any, training: bool) -> Any:
        """Call it."""
        return layer.train(training)(x)

    def state(self, layer: Any) -> Mapping[str, Any]:
        """Return its running statistics."""
        return {"mean": layer.running_mean, "var": layer.running_var}

    def gradients(self, layer: Any, x: Any, dy: Any, training: bool) -> tuple[Any, Mapping[str, Any]]:
        """Call it under reverse mode."""
        import mlx.core as mx

        given = _differentiated(layer, x)
        (y,), grads = mx.vjp(self._function(layer, training), [*given.values()], [dy])
        return y, dict(zip(given, grads, strict=True))

    def tangent(self, layer: Any, x: Any, dots: Mapping[str, Any], training: bool) -> Any:
        """Call it under forward mode."""
        import mlx.core as mx

        given = _differentiated(layer, x)
        along = [dots[name] for name in given]
        return mx.jvp(self._function(layer, training), [*given.values()], along)[1][0]

    def to_library(self, array: Array) -> Any:
        """Return an array of MLX."""
        return to_mlx(array)

    def to_numpy(self, value: Any) -> Array:
        """Return the array's values."""
        return to_numpy(value)

    def _function(self, layer: Any, training: bool) -> Any:
        def call(x: Any, *parameters: Any) -> Any:
            if parameters:
                layer.weight, layer.bias = parameters
            return self.forward(layer, x, training)

        return call


def mlx() -> MlxLayer:
    """Return the layer in float32 and float64."""
    return _subject("mlx", ("float32", "float64"), own.LAYER)


def mlx_16_bit() -> MlxLayer:
    """Return the layer in float16 and bfloat16."""
    return _subject("mlx-16-bit", ("float16", "bfloat16"), own.NARROW)


def _differentiated(layer: Any, x: Any) -> dict[str, Any]:
    return {"x": x} | ({"gamma": layer.weight, "beta": layer.bias} if "weight" in layer else {})


def _subject(name: str, dtypes: tuple[str, ...], defaults: Defaults) -> MlxLayer:
    import mlx.nn  # noqa: F401 - what is missing shows here and not in the first case

    scope = Scope(
        profiles=frozenset({"core", "running", "inference", "grad", "jvp"}),
        dtypes=dtypes,
        ndims=(2, 3, 4),
        axes="last",
        world=1,
        options={
            "correction": (1,),
            "averaging": ("exponential",),
            "single_value": ("raise",),
            "nonfinite": ("propagate",),
        },
        min_count=2,
        parameter_dtypes=("x",),
        affine="together",
        nonempty=("samples", "spatial"),
    )
    return MlxLayer(name=name, scope=scope, defaults=defaults)
