"""A layer and arrays of MLX with a case's numbers in them, for the subject and for the probe."""

from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case

__all__ = ["layer_of", "to_mlx", "to_numpy"]


def layer_of(case: Case, dtype: np.dtype[Any], **arguments: Any) -> Any:
    """Return the layer with its own arguments and the case's parameters and running state, in a dtype."""
    import mlx.nn as nn

    state = case.state or {}
    layer = nn.BatchNorm(case.channels, **arguments)
    given = {"weight": (case.gamma, 1), "bias": (case.beta, 0)}
    given |= {"running_mean": (state.get("mean"), 0), "running_var": (state.get("var"), 1)}
    for name, (values, usual) in given.items():
        if name in layer:
            setattr(layer, name, to_mlx(np.array(np.full(case.channels, usual) if values is None else values, dtype)))
    return layer


def to_mlx(array: Array) -> Any:
    """Return a new array of MLX with the values and the dtype."""
    import mlx.core as mx

    if array.dtype.name == "bfloat16":  # MLX reads the bits, not ml_dtypes' type
        return mx.array(np.array(array, order="C").view(np.uint16)).view(mx.bfloat16)
    return mx.array(np.array(array, order="C"), dtype=getattr(mx, array.dtype.name))


def to_numpy(value: Any) -> Array:
    """Return a new NumPy array with the values and the dtype."""
    import ml_dtypes
    import mlx.core as mx

    if value.dtype == mx.bfloat16:
        return np.array(value.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.array(value)
