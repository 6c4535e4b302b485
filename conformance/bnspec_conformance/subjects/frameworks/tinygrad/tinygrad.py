"""``tinygrad.nn.BatchNorm`` as a subject.

Channels are on axis 1. Parameters and running statistics have the dtype of x: with float32 ones, y of 16-bit x comes
back in float32. float16 is a subject of its own, so that what is wrong there does not hide the rest. Weight and bias
are there together or not at all. Derivatives are those of ``Tensor.gradient``.

The device is tinygrad's CPU, for which it needs clang on the path. Another is chosen by name: its device PYTHON, as in
``tinygrad@device=PYTHON``, interprets the kernels and needs nothing, but takes minutes for one large case.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from bnspec_conformance.cases.case import Array, Case, Outcome
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.contract import SubjectError
from bnspec_conformance.subjects.defaults import HasDefaults
from bnspec_conformance.subjects.frameworks.tinygrad import tinygrad_defaults as own
from bnspec_conformance.subjects.frameworks.tinygrad.tinygrad_layer import layer_of, to_numpy, to_tinygrad
from bnspec_conformance.subjects.layer_subject import LayerSubject

__all__ = ["TinygradLayer", "tinygrad", "tinygrad_float16"]

_CPU = "CPU"


@dataclasses.dataclass(kw_only=True)
class TinygradLayer(HasDefaults, LayerSubject):
    """The layer in some dtypes on one device.

    Attributes
    ----------
    device : str
        A name of tinygrad's.
    """

    name: str
    scope: Scope
    device: str
    packages: tuple[str, ...] = ("tinygrad",)
    refusals: tuple[type[Exception], ...] = (RuntimeError, TypeError, ValueError, ZeroDivisionError)
    examples: int = 2  # every new shape is scheduled, lowered and compiled anew
    dialect: str | None = "tinygrad"

    def version(self) -> str:
        """Return the package, its version and the device."""
        return f"{super().version()} on {self.device}"

    def run(self, case: Case) -> Outcome:
        """Run the case on the device."""
        from tinygrad.helpers import Context

        with Context(DEV=self.device):
            return super().run(case)

    def build(self, case: Case) -> Any:
        """Return the layer."""
        config = case.config
        return layer_of(case, case.ranks[0].x.dtype, eps=config.epsilon, momentum=1 - config.decay, affine=config.scale)

    def forward(self, layer: Any, x: Any, training: bool) -> Any:
        """Call it, and compute what it promises."""
        return self._computed(layer, [self._promised(layer, x, training)])[0]

    def state(self, layer: Any) -> Mapping[str, Any]:
        """Return its running statistics."""
        return {"mean": layer.running_mean, "var": layer.running_var}

    def gradients(self, layer: Any, x: Any, dy: Any, training: bool) -> tuple[Any, Mapping[str, Any]]:
        """Call it and differentiate."""
        y = self._promised(layer, x, training)
        given = {"x": x} | ({} if layer.weight is None else {"gamma": layer.weight, "beta": layer.bias})
        grads = y.gradient(*given.values(), gradient=dy)
        return self._computed(layer, [y, *grads])[0], dict(zip(given, grads, strict=True))

    def to_library(self, array: Array) -> Any:
        """Return a tensor."""
        return to_tinygrad(array)

    def to_numpy(self, value: Any) -> Array:
        """Return the tensor's values."""
        return to_numpy(value)

    def _promised(self, layer: Any, x: Any, training: bool) -> Any:
        from tinygrad.helpers import Context

        with Context(TRAINING=int(training)):
            return layer(x)

    def _computed(self, layer: Any, tensors: list[Any]) -> list[Any]:
        """Compute tensors and the state together, as they share most of their work."""
        from tinygrad import Tensor

        Tensor.realize(*tensors, *self.state(layer).values())
        return tensors


def tinygrad(*, device: str = _CPU) -> TinygradLayer:
    """Return the layer in float32 and float64.

    Parameters
    ----------
    device : str
        A name of tinygrad's, such as CPU, PYTHON or CUDA.

    Raises
    ------
    SubjectError
        If tinygrad cannot compute there.
    """
    return _subject("tinygrad", ("float32", "float64"), device, own.FLOAT32)


def tinygrad_float16(*, device: str = _CPU) -> TinygradLayer:
    """Return the layer in float16; the parameter and the error are those of `tinygrad`."""
    return _subject("tinygrad-float16", ("float16",), device, own.FLOAT16)


def _subject(name: str, dtypes: tuple[str, ...], device: str, departures: Mapping[str, str]) -> TinygradLayer:
    os.environ.setdefault("PARALLEL", "0")  # a pool of processes that compile takes longer than these small kernels
    from tinygrad import Tensor
    from tinygrad.helpers import Context

    try:
        with Context(DEV=device):
            Tensor([1.0, 2.0]).exp().tolist()
    except Exception as error:  # tinygrad raises whatever its compilers and drivers do
        raise SubjectError(
            f"tinygrad cannot compute on device {device!r}: {type(error).__name__}: {error}. Its device CPU needs "
            "clang on the path; its device PYTHON needs nothing (`--device PYTHON --sizes none`)."
        ) from error
    scope = Scope(
        profiles=frozenset({"core", "running", "inference", "grad"}),
        dtypes=dtypes,
        axes="first",
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
    )
    return TinygradLayer(name=name, scope=scope, device=device, defaults=own.layer(device, departures))
