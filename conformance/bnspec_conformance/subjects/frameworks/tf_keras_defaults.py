"""The defaults of ``tf_keras.layers.BatchNormalization``, for the probe."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["layer"]

_FIELDS = {"gamma": 2.0, "beta": 3.0, "moving_mean": 5.0, "moving_variance": 7.0}


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
    layer.build(case.ranks[0].x.shape)
    state = case.state or {}
    given = (case.gamma, case.beta, state.get("mean"), state.get("var"))
    for name, value in zip(_FIELDS, given, strict=True):
        if value is not None:
            variable = getattr(layer, name)
            variable.assign(value.astype(variable.dtype.as_numpy_dtype))
    y = np.array(layer(tf.constant(case.ranks[0].x), training=case.mode == "batch").numpy())
    if case.state is None:
        return y, None
    return y, {"mean": np.array(layer.moving_mean.numpy()), "var": np.array(layer.moving_variance.numpy())}


def _names() -> dict[str, str]:
    from tf_keras import layers

    layer: Any = layers.BatchNormalization()
    layer.build((3, 2))
    for name, mark in _FIELDS.items():
        getattr(layer, name).assign(np.full(2, mark))
    marks: dict[str, float] = dict(zip(("gamma", "beta", "mean", "var"), _FIELDS.values(), strict=True))
    # A variable's name is "batch_normalization/gamma:0": the layer's own name and an output's number go around it.
    return names_by_value({v.name.split("/")[-1].split(":")[0]: v.numpy() for v in layer.variables}, marks)
