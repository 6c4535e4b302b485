"""The defaults of ``keras.layers.BatchNormalization``, for the probe."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.frameworks.keras import keras_common

__all__ = ["layer"]


def layer(platform: str, dtypes: tuple[str, ...], *, masked: bool) -> Defaults:
    """Return the layer on one of Keras's backends; each computes moments in its own way."""
    departures = {"state, empty batch": "not finite"}
    if platform == "torch" and "float32" in dtypes:
        departures["variance (float32 x)"] = "E[x^2] - E[x]^2 in float32"
    if masked:
        departures["state, all masked"] = "moved towards 0"
    if "float64" in dtypes:  # the layer casts x to float32 first
        what = ("centre", "variance", "y evaluated", "y in inference evaluated")
        departures |= {f"{name} (float64 x)": "x is narrower than float64" for name in what}
        departures["state (float64 x)"] = "float32"
    return Defaults(step=_layer, names=_names, departures=departures)


def _layer(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    from keras import layers, ops

    layer: Any = layers.BatchNormalization(axis=case.config.axis, **arguments)
    return keras_common.default_call(
        layer, case, _assign, lambda x, training: layer(np.array(x), training=training), ops.convert_to_numpy
    )


def _names() -> Mapping[str, str]:
    from keras import layers, ops

    return keras_common.variable_names(layers.BatchNormalization(), _assign, ops.convert_to_numpy)


def _assign(variable: Any, values: Any) -> None:
    variable.assign(values)
