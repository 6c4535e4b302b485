"""Memory of torch's tensors as arrays of NumPy, and the other way round, without a copy."""

from typing import Any

import numpy
import torch

__all__ = ["array_of", "tensor_of"]


def array_of(v: Any) -> Any:
    """Return a tensor's memory as an array of NumPy; None for None."""
    if v is None:
        return None
    if v.requires_grad:
        v = v.detach()
    if v.dtype == torch.bfloat16:
        import ml_dtypes

        return v.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return v.numpy()


def tensor_of(v: Any) -> Any:
    """Return an array's memory as a tensor."""
    if v.dtype.kind == "V":  # ml_dtypes' bfloat16; to ask for its name takes longer than the rest
        return torch.from_numpy(v.view(numpy.uint16)).view(torch.bfloat16)
    return torch.from_numpy(v)
