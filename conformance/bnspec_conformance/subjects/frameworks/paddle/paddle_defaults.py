"""The defaults of ``paddle.nn.BatchNorm1D``, ``2D`` and ``3D``, for the probe."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.frameworks.paddle.paddle_layer import layer_of
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["LAYER", "ONE_VALUE"]


def _layer(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    import paddle

    layer = layer_of(case, **arguments)
    (layer.train if case.mode == "batch" else layer.eval)()
    y = layer(paddle.to_tensor(np.array(case.ranks[0].x), place="cpu")).numpy()
    if case.state is None:
        return y, None
    return y, {"mean": layer._mean.numpy(), "var": layer._variance.numpy()}


def _names() -> dict[str, str]:
    import paddle

    marks = {"gamma": 2.0, "beta": 3.0, "mean": 5.0, "var": 7.0}
    layer: Any = paddle.nn.BatchNorm1D(2)
    for held, mark in zip((layer.weight, layer.bias, layer._mean, layer._variance), marks.values(), strict=True):
        held.set_value(np.full(2, mark, "float32"))
    return names_by_value({name: value.numpy() for name, value in layer.state_dict().items()}, marks)


LAYER = Defaults(step=_layer, names=_names)

#: The path of one value per channel returns x and does nothing else.
ONE_VALUE = dataclasses.replace(
    LAYER,
    departures={
        "one value, no state": "accepted, returns x",
        "one value, with a state": "accepted, returns x, the state stays",
    },
)
