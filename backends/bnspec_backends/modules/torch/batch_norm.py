"""The modules by rank of input, as torch has them, and one for any rank and axis."""

from typing import Any

import torch

from bnspec._errors import refusal
from bnspec_backends.modules.torch.specified import SpecifiedNorm

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class BatchNorm1d(SpecifiedNorm, torch.nn.BatchNorm1d):
    """Batch normalization of input (N, C) or (N, C, L); see `SpecifiedNorm`.

    Examples
    --------
    >>> import torch
    >>> module = BatchNorm1d(1, eps=3.0, momentum=0.25)
    >>> module(torch.tensor([[1.0], [3.0]])).tolist()
    [[-0.5], [0.5]]
    >>> {name: value.tolist() for name, value in module.state_dict().items() if "running" in name}
    {'running_mean': [0.5], 'running_var': [1.25]}
    """


class BatchNorm2d(SpecifiedNorm, torch.nn.BatchNorm2d):
    """Batch normalization of input (N, C, H, W); see `SpecifiedNorm`."""


class BatchNorm3d(SpecifiedNorm, torch.nn.BatchNorm3d):
    """Batch normalization of input (N, C, D, H, W); see `SpecifiedNorm`."""


class BatchNorm(SpecifiedNorm):
    """Batch normalization of input of any rank from 2, with the channels on any axis; see `SpecifiedNorm`.

    Parameters
    ----------
    num_features : int
        C, the length of the channel axis.
    axis : int
        The channel axis; 1 by default, as in torch.
    *torch, **options
        As in `SpecifiedNorm`.

    Examples
    --------
    >>> import torch
    >>> BatchNorm(3, axis=-1, virtual_batch_size=2)(torch.ones(4, 5, 3)).shape
    torch.Size([4, 5, 3])
    """

    def __init__(self, num_features: int, *torch: Any, axis: int = 1, **options: Any) -> None:
        vars(self)["axis"] = axis
        super().__init__(num_features, *torch, **options)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2 or not -input.dim() <= self.axis < input.dim():
            raise refusal(
                ValueError,
                "BN-SHAPE-1" if input.dim() < 2 else "BN-SHAPE-2",
                got=f"input of shape {tuple(input.shape)} for axis={self.axis}",
                expected="rank 2 or more, with such an axis",
                do="Reshape the input, or build the module with its axis.",
            )
