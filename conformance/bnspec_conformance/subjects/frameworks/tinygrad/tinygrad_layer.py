"""A layer and tensors of tinygrad with a case's numbers in them, for the subject and for the probe."""

from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case

__all__ = ["layer_of", "to_numpy", "to_tinygrad"]


def layer_of(case: Case, dtype: np.dtype[Any], **arguments: Any) -> Any:
    """Return the layer with its own arguments and the case's parameters and running state, in a dtype."""
    from tinygrad import nn

    state = case.state or {}
    layer = nn.BatchNorm(case.channels, **arguments)
    given = {"weight": (case.gamma, 1), "bias": (case.beta, 0)}
    given |= {"running_mean": (state.get("mean"), 0), "running_var": (state.get("var"), 1)}
    for name, (values, usual) in given.items():
        if getattr(layer, name) is not None:
            values = np.full(case.channels, usual) if values is None else values
            setattr(layer, name, to_tinygrad(values.astype(dtype)))
    return layer


def to_numpy(value: Any) -> Array:
    """Return a new NumPy array with the values and the dtype."""
    return np.array(value.numpy())


def to_tinygrad(array: Array) -> Any:
    """Return a new tensor on the device in use with the values and the dtype."""
    from tinygrad import Tensor

    return Tensor(np.array(array, order="C"))
