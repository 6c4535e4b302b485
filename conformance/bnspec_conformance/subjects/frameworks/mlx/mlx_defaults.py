"""The defaults of ``mlx.nn.BatchNorm``, for the probe."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.frameworks.mlx.mlx_layer import layer_of, to_mlx, to_numpy
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["LAYER", "NARROW"]


def _layer(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    layer = layer_of(case, np.dtype("float32"), **arguments).train(case.mode == "batch")
    y = to_numpy(layer(to_mlx(case.ranks[0].x.astype("float32"))))
    if case.state is None:
        return y, None
    return y, {"mean": to_numpy(layer.running_mean), "var": to_numpy(layer.running_var)}


def _names() -> dict[str, str]:
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    marks = {"gamma": 2.0, "beta": 3.0, "mean": 5.0, "var": 7.0}
    layer: Any = nn.BatchNorm(2)
    for name, mark in zip(("weight", "bias", "running_mean", "running_var"), marks.values(), strict=True):
        setattr(layer, name, mx.full((2,), mark))
    return names_by_value({name: np.array(value) for name, value in tree_flatten(layer.parameters())}, marks)


#: A layer without options is a float32 one, so that is where its numbers are measured.
LAYER = Defaults(step=_layer, names=_names)

#: 16 bits are computed in throughout; only float16 overflows.
_WHATS = ("centre", "centre in inference", "state")
_DEPARTURES = {f"{what} ({dtype} x)": dtype for what in _WHATS for dtype in ("float16", "bfloat16")}
NARROW = Defaults(step=_layer, names=_names, departures=_DEPARTURES | {"sums (float16 x)": "float16"})
