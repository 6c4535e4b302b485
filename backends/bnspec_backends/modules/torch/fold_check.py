"""Comparison of a folded layer with the two modules that it replaces, in float64, within what rounding explains."""

import copy
from typing import Any

import torch

from bnspec import FoldedKernel
from bnspec_backends.modules.torch.foldable import channels_from_end

__all__ = ["difference", "made_up_input"]

#: Roundings that a term can meet besides those of the sum over a kernel's elements.
_MORE = 16


def difference(first: Any, second: Any, folded: Any, numbers: FoldedKernel, x: torch.Tensor) -> tuple[float, float]:
    """Return by how much a folded layer differs from two modules, in float64.

    Parameters
    ----------
    first, second : torch.nn.Module
        A layer and the normalization behind it, or a normalization and the layer behind it.
    folded : torch.nn.Module
        The layer that is to replace both, with its stored numbers.
    numbers : FoldedKernel
        The numbers, with the errors that rounding caused.
    x : Tensor
        Input of the first.

    Returns
    -------
    largest, share : float
        The largest absolute difference, and the largest quotient of a difference and what may be at that place::

            max|x|*kernel_error + bias_error + n*u*amplitude

        with u = 2^-53, n the roundings that a term can meet, and for the amplitude the sum of the absolute values of
        all terms: the output of the same modules where every number has its absolute value. Up to 1, rounding explains
        the difference.
    """
    x = x.detach().cpu().double()
    with torch.no_grad():
        want = _of_absolutes(second, False)(_of_absolutes(first, False)(x))
        amplitude = _of_absolutes(second, True)(_of_absolutes(first, True)(x.abs()))
        got = _of_absolutes(folded, False)(x)
    shape = [-1] + [1] * (-channels_from_end(folded) - 1)
    errors = [torch.as_tensor(v).reshape(shape) for v in (numbers.kernel_error, numbers.bias_error)]
    terms = folded.weight[0].numel() * max(1, getattr(folded, "groups", 1)) + _MORE
    most = x.abs().max() if x.numel() else torch.zeros((), dtype=x.dtype)
    allowed = most * errors[0] + errors[1] + terms * 2.0**-53 * amplitude
    found = (got - want).abs()
    if not found.numel():
        return 0.0, 0.0
    share = torch.where(found == 0, torch.zeros_like(found), found / allowed)
    return float(found.max()), float(torch.nan_to_num(share, nan=float("inf")).max())


def made_up_input(layer: Any) -> torch.Tensor:
    """Return an input for a layer: of random numbers, and of three positions more than its kernel has."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, torch.nn.Linear):
        shape: tuple[int, ...] = (4, layer.in_features)
    else:
        extents = (d * (k - 1) + 4 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
        shape = (2, layer.in_channels, *extents)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _of_absolutes(module: Any, absolute: bool) -> Any:
    """Return a copy of a module in float64 on the host, in evaluation; perhaps one that adds absolute values only."""
    module = copy.deepcopy(module).cpu().double().eval()
    if absolute:
        with torch.no_grad():
            for v in (module.weight, module.bias):
                if v is not None:
                    v.abs_()
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.abs_().neg_()  # x - mean adds the two then
    return module
