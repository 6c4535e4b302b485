"""The defaults of ``tf_keras.layers.BatchNormalization``, for the probe."""

from collections.abc import Collection, Mapping
from typing import Any

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.frameworks.keras import keras_common

__all__ = ["layer"]


def layer(more: Collection[str], dtypes: tuple[str, ...]) -> Defaults:
    """Return the layer with what a subject has of masks, virtual batches and float64.

    Parameters
    ----------
    more : collection of str
        Profiles beyond those that every path has.
    dtypes : tuple of str
        Dtypes that the subject takes.
    """
    departures = {"state, empty batch": "not finite"}  # 0/0
    if "mask" in more:
        departures["state, all masked"] = "moved towards 0"  # 0/0 is made 0, and then averaged
    if "ghost" in more:
        departures["grouping"] = "interleaved"  # it reshapes N samples to (V, N/V) and reduces the first axis
    arguments = {"dtype": "float64"} if dtypes == ("float64",) else {}
    return Defaults(step=_layer, names=_names, departures=departures, arguments=arguments)


def _layer(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    import tensorflow as tf
    from tf_keras import layers

    layer: Any = layers.BatchNormalization(axis=case.config.axis, **arguments)
    return keras_common.default_call(
        layer, case, _assign, lambda x, training: layer(tf.constant(x), training=training), _to_numpy
    )


def _names() -> Mapping[str, str]:
    from tf_keras import layers

    # A variable's name is "batch_normalization/gamma:0": the layer's own name and an output's number go around it.
    return keras_common.variable_names(
        layers.BatchNormalization(), _assign, _to_numpy, lambda name: name.split("/")[-1].split(":")[0]
    )


def _assign(variable: Any, values: Any) -> None:
    variable.assign(values.astype(variable.dtype.as_numpy_dtype))


def _to_numpy(tensor: Any) -> Any:
    return tensor.numpy()
