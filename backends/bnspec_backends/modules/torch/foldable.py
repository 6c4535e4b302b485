"""Layers of torch as folding sees them: where their channels are, and what stands against folding into them."""

from typing import Any

import torch
from torch.nn.utils import parametrize

from bnspec import FoldedKernel, Params, fold_into_following, fold_into_preceding
from bnspec_backends.modules.torch.buffers import config_of, state_of
from bnspec_backends.modules.torch.replacing import OURS
from bnspec_backends.modules.torch.specified import SpecifiedNorm

__all__ = ["against_layer", "against_norm", "channels_from_end", "fold_pair", "is_norm", "with_kernel"]

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)


def is_norm(module: Any) -> bool:
    """Return whether a module is a batch normalization, whatever its class does besides."""
    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def against_norm(module: Any) -> str | None:
    """Return why a normalization cannot be folded anywhere, or None."""
    if not isinstance(module, SpecifiedNorm) and type(module) not in OURS:
        return f"its class, {type(module).__qualname__}, may do more than torch's own"
    if module.running_mean is None:
        return "it has no running statistics"
    return _against_any(module)


def against_layer(module: Any) -> str | None:
    """Return why nothing can be folded into a layer, or None."""
    if type(module) not in (torch.nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED):
        return f"a {type(module).__qualname__} is no convolution or linear layer of torch's own"
    return _against_any(module)


def channels_from_end(layer: Any) -> int:
    """Return the axis of a layer's channels, counted from the end: -1 of a linear layer, -3 of a Conv2d."""
    return -1 if isinstance(layer, torch.nn.Linear) else 1 - int(layer.weight.ndim)


def fold_pair(norm: Any, layer: Any, *, following: bool, other_size: bool, name: str) -> FoldedKernel:
    """Return the kernel of a layer that normalizes too.

    Parameters
    ----------
    norm, layer : torch.nn.Module
        Against which nothing stands.
    following : bool
        Whether the layer follows the normalization.
    other_size : bool
        Whether a transposed convolution is called with a size of its own.
    name : str
        Of the normalization, for error texts.

    Raises
    ------
    TypeError, ValueError
        As `bnspec.fold_into_preceding` and `bnspec.fold_into_following`.
    """
    config = config_of(norm)
    state = state_of(norm, config)
    transposed = isinstance(layer, _TRANSPOSED)
    axes: dict[str, Any] = {
        "output_axis": int(transposed),
        "input_axis": int(not transposed),
        "groups": getattr(layer, "groups", 1),
    }
    given = (layer.weight, layer.bias, Params(norm.weight, norm.bias), state, config)
    if not following:
        return fold_into_preceding(*given, **axes, name=name)
    return fold_into_following(*given, **axes, zero_padding=other_size or _lacks_products(layer), name=name)


def with_kernel(layer: Any, folded: FoldedKernel, copy: Any) -> Any:
    """Put a folded kernel into a copy of its layer."""
    trained = layer.weight.requires_grad
    copy.weight = torch.nn.Parameter(folded.kernel, trained)
    copy.bias = None if folded.bias is None else torch.nn.Parameter(folded.bias, trained)
    return copy


def _against_any(module: Any) -> str | None:
    """Return why a module does more than its class says, or None."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks) or "forward" in vars(module):
        return f"the {type(module).__name__} has hooks, which folding would drop"
    if parametrize.is_parametrized(module):
        return f"the {type(module).__name__} has parametrizations, which folding would drop"
    return None


def _lacks_products(layer: Any) -> bool:
    """Return whether some output of a layer is a sum over less than all elements of its kernel."""
    if isinstance(layer, torch.nn.Linear):
        return False
    if isinstance(layer, _TRANSPOSED):
        single = all(k == 1 for k in layer.kernel_size) and all(s == 1 for s in layer.stride)
        return not single or any(layer.output_padding)
    if layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    if layer.padding == "same":
        return any(k > 1 for k in layer.kernel_size)
    return any(layer.padding)
