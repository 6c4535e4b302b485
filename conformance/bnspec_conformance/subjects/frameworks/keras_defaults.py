"""The defaults of ``keras.layers.BatchNormalization``, for the probe."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["layer"]

_FIELDS = {"gamma": 2.0, "beta": 3.0, "moving_mean": 5.0, "moving_variance": 7.0}


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
    layer.build(case.ranks[0].x.shape)
    state = case.state or {}
    given = (case.gamma, case.beta, state.get("mean"), state.get("var"))
    for name, value in zip(_FIELDS, given, strict=True):
        if value is not None:
            getattr(layer, name).assign(value)
    y = np.array(ops.convert_to_numpy(layer(np.array(case.ranks[0].x), training=case.mode == "batch")))
    if case.state is None:
        return y, None
    held = {"mean": layer.moving_mean, "var": layer.moving_variance}
    return y, {name: np.array(ops.convert_to_numpy(v)) for name, v in held.items()}


def _names() -> dict[str, str]:
    from keras import layers, ops

    layer: Any = layers.BatchNormalization()
    layer.build((3, 2))
    for name, mark in _FIELDS.items():
        getattr(layer, name).assign(np.full(2, mark))
    marks: dict[str, float] = dict(zip(("gamma", "beta", "mean", "var"), _FIELDS.values(), strict=True))
    return names_by_value({v.name: np.array(ops.convert_to_numpy(v)) for v in layer.variables}, marks)
