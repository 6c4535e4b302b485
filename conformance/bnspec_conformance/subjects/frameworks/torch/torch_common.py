"""Common parts of subjects on torch: arrays in and out, and torch's own automatic differentiation."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array

__all__ = ["Forward", "from_torch", "gradients", "tangent", "to_torch"]

#: The tensors by name ("x", "gamma", "beta", those that exist) to y.
Forward = Callable[[Mapping[str, Any]], Any]


def to_torch(values: Array) -> Any:
    """Return a new contiguous tensor with the array's values and dtype, on torch's default device."""
    import torch

    values = np.array(values, order="C")
    if values.dtype.name == "bfloat16":  # torch reads the bits, not ml_dtypes' type
        return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16).to(torch.get_default_device())
    return torch.from_numpy(values).to(torch.get_default_device())


def from_torch(tensor: Any) -> Array:
    """Return a new array with the tensor's values and dtype."""
    import torch

    tensor = tensor.detach().clone().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return np.asarray(tensor.view(torch.uint16).numpy()).view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def gradients(forward: Forward, given: Mapping[str, Any], dy: Any) -> tuple[Any, dict[str, Array]]:
    """y, and by reverse mode the gradient of every tensor, as ``dx``, ``dgamma`` and ``dbeta``."""
    import torch

    for value in given.values():
        value.requires_grad_()
    y = forward(given)
    grads = torch.autograd.grad(y, tuple(given.values()), dy)
    return y, {f"d{name}": from_torch(grad) for name, grad in zip(given, grads)}


def tangent(forward: Forward, given: Mapping[str, Any], dots: Mapping[str, Any]) -> Any:
    """Return the tangent of y by forward mode; a tensor without a tangent of its own has 0.

    There is one level in a process, so threads that push tangents together are started inside of one.
    """
    import torch
    from torch.autograd import forward_ad

    outside: Any = forward_ad.dual_level() if forward_ad._current_level < 0 else contextlib.nullcontext()
    with outside:
        dual = {}
        for name, value in given.items():
            dot = dots.get(name)
            dot = torch.zeros_like(value) if dot is None else dot.to(value.dtype)
            dual[name] = forward_ad.make_dual(value.detach(), dot)
        y = forward(dual)
        found = forward_ad.unpack_dual(y).tangent
    return torch.zeros_like(y) if found is None else found
