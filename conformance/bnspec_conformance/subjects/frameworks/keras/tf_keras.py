"""``tf_keras.layers.BatchNormalization``, Keras 2 on TensorFlow, as subjects; it runs eagerly, on the CPU.

The layer has two paths. The fused one, for x of rank 4 and 5 that is not float64 with channels on axis 1 or last, feeds
m2/max(n - 1, 1) to the moving variance (correction 1, "floor"), the other m2/n. Which of them runs is the layer's own
choice, except where a running state is updated: then ``fused`` is what the case's correction asks for. 16-bit x goes
with the policies "mixed_float16" and "mixed_bfloat16", under which variables are float32.

Virtual batches, masks and float64 are subjects of their own, so that what is wrong there does not hide the rest: the
layer's virtual batches take every G-th sample, where the specification's are runs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope, needs
from bnspec_conformance.subjects.contract import Refused
from bnspec_conformance.subjects.defaults import HasDefaults
from bnspec_conformance.subjects.frameworks.keras import tf_keras_defaults
from bnspec_conformance.subjects.frameworks.keras.keras_common import VARIABLES, options

__all__ = ["TfKerasLayer", "tf_keras", "tf_keras_float64", "tf_keras_ghost", "tf_keras_masked"]


@dataclasses.dataclass
class TfKerasLayer(HasDefaults):
    """The layer, with some of its options.

    Attributes
    ----------
    more : frozenset of str
        Profiles beyond those that every path has.
    """

    name: str
    more: frozenset[str]
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    arithmetic: Literal["float64", "float32"] = "float32"
    bound: Literal["strict", "plain"] = "plain"
    flushes: bool = True  # TensorFlow sets its threads so
    examples: int = 12  # a call of a layer takes milliseconds here
    dialect: str | None = "tf_keras"
    backend: None = None

    @property
    def scope(self) -> Scope:
        """Scope of the layer."""
        return Scope(
            profiles=frozenset({"core", "running", "inference", "grad", "jvp"}) | self.more,
            dtypes=self.dtypes,
            axes="last" if "mask" in self.more else "any",
            world=1,
            options={
                "averaging": ("exponential",),
                "nonfinite": ("propagate",),
                "single_value": ("floor",),
                "renorm.form": ("tensorpack",),
                "mask.channels": (False,),
            }
            | ({"ghost_source": ("mean",)} if "ghost" in self.more else {}),
        )

    def version(self) -> str:
        """tf-keras and TensorFlow, with their versions."""
        import tensorflow
        import tf_keras

        return f"tf-keras {tf_keras.__version__}, tensorflow {tensorflow.__version__}"

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason; besides, only the fused path has correction 1."""
        if "running" in needs(case) and case.config.correction == 1 and not _can_be_fused(case):
            return "only its fused path has correction=1"
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the layer once, and once more where tangents are asked for."""
        import tensorflow as tf

        rank = case.ranks[0]
        x = tf.constant(rank.x)
        mask = None if rank.mask is None else tf.constant(rank.mask[..., 0])
        errors = (ValueError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
        training = case.mode == "batch"
        try:
            layer = _build(case)
            given = {"x": x} | {n: getattr(layer, n) for n in ("gamma", "beta") if getattr(layer, n) is not None}
            tape: Any = tf.GradientTape()
            with tape:
                tape.watch(x)
                y = layer(x, training=training, mask=mask)
            found: dict[str, Any] = {}
            if rank.dy is not None:
                grads = tape.gradient(y, given, output_gradients=tf.constant(rank.dy))
                found = {f"d{name}": _numpy(grads[name], given[name]) for name in given}
            kept = _state(case, layer) if "running" in needs(case) else None
            if case.has_jvp:
                found["ydot"] = self._tangent(case, x, mask)
        except errors as error:
            raise Refused(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
        shapes = {"dgamma": (case.channels,), "dbeta": (case.channels,)}
        found = {name: v.reshape(shapes.get(name, v.shape)) for name, v in found.items()}
        return Outcome((RankOutcome(y=np.array(y.numpy()), state=kept, **found),))

    def _tangent(self, case: Case, x: Any, mask: Any) -> Array:
        """Forward mode, on a layer of its own."""
        import tensorflow as tf

        layer = _build(case)
        given = {"x": x} | {n: getattr(layer, n) for n in ("gamma", "beta") if getattr(layer, n) is not None}
        dots: Mapping[str, Array | None] = {"x": case.ranks[0].xdot, "gamma": case.gamma_dot, "beta": case.beta_dot}
        along = []
        for name, value in given.items():
            dot = dots[name]
            dot = np.zeros(value.shape) if dot is None else dot.reshape(value.shape)
            along.append(tf.constant(dot.astype(value.dtype.as_numpy_dtype)))
        with tf.autodiff.ForwardAccumulator(list(given.values()), along) as forward:
            y = layer(x, training=case.mode == "batch", mask=mask)
        return _numpy(forward.jvp(y), y)


def tf_keras() -> TfKerasLayer:
    """Return the layer in every format but float64, without virtual batches and masks."""
    return _subject("tf-keras", "renorm")


def tf_keras_float64() -> TfKerasLayer:
    """Return the layer with ``dtype="float64"``."""
    return _subject("tf-keras-float64", "renorm", dtypes=("float64",))


def tf_keras_ghost() -> TfKerasLayer:
    """Return the layer with ``virtual_batch_size``."""
    return _subject("tf-keras-ghost", "renorm", "ghost")


def tf_keras_masked() -> TfKerasLayer:
    """Return the layer called with a mask, which the fused path ignores, with a warning."""
    return _subject("tf-keras-masked", "renorm", "mask")


def _subject(name: str, *more: str, dtypes: tuple[str, ...] = TfKerasLayer.dtypes) -> TfKerasLayer:
    import tensorflow  # noqa: F401 - what is missing shows here and not in the first case
    import tf_keras as library  # noqa: F401

    return TfKerasLayer(name, frozenset(more), dtypes, defaults=tf_keras_defaults.layer(more, dtypes))


def _can_be_fused(case: Case) -> bool:
    """Return whether the layer has a fused path for a case."""
    config, x = case.config, case.ranks[0].x
    plain = config.renorm is None and "ghost" not in needs(case)
    return plain and x.dtype != np.float64 and x.ndim in (4, 5) and config.axis % x.ndim in (1, x.ndim - 1)


def _build(case: Case) -> Any:
    """Return the layer for the case, with its variables set."""
    from tf_keras.layers import BatchNormalization

    config, x = case.config, case.ranks[0].x
    more: dict[str, Any] = {"axis": config.axis % x.ndim}  # a negative axis would change the choice of the fused path
    if "ghost" in needs(case):
        more["virtual_batch_size"] = config.virtual_batch_size
    if "running" in needs(case):
        more["fused"] = config.correction == 1
    layer = BatchNormalization(**(options(case) | more))
    layer.build(x.shape)
    given = {"gamma": case.gamma, "beta": case.beta} | (case.state or {})
    for ours, name in VARIABLES.items():
        variable, value = getattr(layer, name, None), given.get(ours)
        if variable is not None and value is not None:
            variable.assign(value.astype(variable.dtype.as_numpy_dtype).reshape(variable.shape))
    return layer


def _state(case: Case, layer: Any) -> dict[str, Array]:
    """Return the moving statistics by our names; with virtual batches their shape has more extents of 1."""
    found = {ours: getattr(layer, name, None) for ours, name in VARIABLES.items() if ours not in ("gamma", "beta")}
    return {ours: np.array(v.numpy()).reshape(case.channels) for ours, v in found.items() if v is not None}


def _numpy(values: Any, like: Any) -> Array:
    """Return a gradient or tangent as an array; None, for what nothing depends on, is 0."""
    return np.zeros(like.shape, like.dtype.as_numpy_dtype) if values is None else np.array(values.numpy())
