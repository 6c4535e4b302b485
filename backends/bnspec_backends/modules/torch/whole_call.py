"""Choice of the short way through a module's call, for tensors that nobody watches and options that need no more."""

from typing import Any

import torch

from bnspec import BatchNormConfig, Params
from bnspec._checks import arguments
from bnspec._context import is_recomputing
from bnspec._discovery import kernels_for
from bnspec._layer.eager import in_backward_of_torch
from bnspec._modes import readable

__all__ = ["repeats", "whole_call"]


def whole_call(module: Any, input: torch.Tensor, params: Params, config: BatchNormConfig) -> torch.Tensor | None:
    """Return what a module makes of an input without a mask, having moved its state; None where the long way is to go.

    Both ways have the same results, to the bit, and refuse the same.

    Parameters
    ----------
    module : SpecifiedNorm
    input : Tensor
        Checked by the module.
    params : Params
        The module's own.
    config : BatchNormConfig
        The module's own.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As `bnspec.batch_norm`, `bnspec.batch_norm_inference` and `bnspec.update_running`.
    """
    kept, training = module._buffers.get, module.training
    mean, var, updates = kept("running_mean"), kept("running_var"), kept("num_batches_tracked")
    if config.renorm is not None or (mean is None) != (var is None) or config.averaging == "debiased":
        return None
    if not readable(input, *params, mean, var, updates):
        return None
    kernels = kernels_for(input)
    calls = getattr(kernels, "_whole_calls", None)
    if calls is None or not calls.serves(input):
        return None
    name = type(module).__name__
    if mean is not None and (module.frozen or not training):
        state = module._state(config)
        groups = arguments.inference(input, params, state, config, name, values=False)
        call = calls.RunningCall(kernels, groups, config, name)
        return call.normalize(input, params, state.mean, state.var) if call.usable(state.var) else None
    if training and module.sync not in (None, False):
        return None
    groups = arguments.forward(input, params, config, None, None, None, None, name)
    call = calls.BatchCall(kernels, groups, config, name)
    y: torch.Tensor = call.normalize(input, params)
    if training and module.track_running_stats and mean is not None and not repeats(input):
        if not call.advance(mean, var, updates):
            module._move(module._state(config), call.moments(), config)
    return y


def repeats(input: torch.Tensor) -> bool:
    """Return whether a call repeats one whose update was made."""
    return is_recomputing() or in_backward_of_torch(input)
