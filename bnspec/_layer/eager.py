"""Questions of a layer to the library of its arrays, since the layer keeps what it computes.

The functions can be traced, differentiated and batched by a library. A layer cannot: what it would keep exists only
inside the transformation. So it asks who is at work before it computes, and before it keeps anything.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bnspec._arrays import array_namespace, library
from bnspec._errors import UntrainedParametersWarning, refusal
from bnspec._modes import transformation
from bnspec._types import Array, Params

__all__ = [
    "gradients_by_torch",
    "in_backward_of_torch",
    "kept_tensors",
    "refuse_transformation",
    "warn_untrained",
]


def refuse_transformation(name: str, *arrays: Array | None) -> None:
    """Refuse a layer's call inside a transformation, whether it shows in the arrays or only in what is made of them."""
    found = transformation(*arrays)
    if found is None and (x := next((v for v in arrays if v is not None), None)) is not None and library(x) == "jax":
        found = transformation(array_namespace(x).zeros(()))
    if found is not None:
        raise refusal(
            RuntimeError,
            "BN-DET-3",
            got=f"{name}: a layer called inside {found}",
            expected="arrays with values, since a layer keeps its variables and running state",
            do="Use the functions there, which keep nothing: batch_norm with update_running, or batch_norm_inference, "
            "with layer.params, layer.state and layer.config_for(x).",
        )


@contextmanager
def kept_tensors() -> Iterator[None]:
    """Make tensors of torch that can be trained and written later, also inside of ``torch.inference_mode()``."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def gradients_by_torch(y: Array) -> bool:
    """Return whether torch records what y was made by, or was told that no gradient is wanted."""
    if library(y) != "torch":
        return False
    torch: Any = sys.modules["torch"]
    return bool(y.requires_grad) or not torch.is_grad_enabled()


def in_backward_of_torch(x: Array) -> bool:
    """Return whether a backward pass of torch is running, inside of which a forward pass can only be a repeated one."""
    if library(x) != "torch":
        return False
    torch: Any = sys.modules["torch"]
    return bool(torch._C._current_graph_task_id() != -1)


def warn_untrained(name: str, y: Array, params: Params, first: bool) -> bool:
    """Warn of a training call whose gamma and beta torch does not train; return whether it did.

    Such a call is one that torch records for x alone, or, at a layer's first, one made by a module of torch, which
    evaluates a model by a mode of its own.
    """
    if library(y) != "torch":
        return False
    torch: Any = sys.modules["torch"]
    given = [v for v in params if v is not None]
    if not given or any(v.requires_grad for v in given):
        return False
    module = first and _in_call_of_module(torch)
    if not module and not y.requires_grad:
        return False
    seen = "normalizes by the batch and moves its statistics"
    if torch.is_grad_enabled():
        seen = (
            "is differentiated by torch, but gamma and beta, which the layer is to train, are no parameters of torch, "
            "and no optimizer of it changes them"
        )
    part = ""
    if module:
        part = (
            " A bnspec layer is no part of the torch.nn.Module that calls it: its parameters(), state_dict(), to() and "
            "eval() do not reach it. Use a module of bnspec.torch, such as bnspec.torch.BatchNorm2d, in its place."
        )
    warnings.warn(
        f"{name}: this call {seen}.{part} To keep the layer, give an optimizer those of `layer.params = "
        "bnspec.Params(*map(torch.nn.Parameter, layer.params))`, or use trainable=False. This is said once of a layer.",
        UntrainedParametersWarning,
        stacklevel=3,
    )
    return True


def _in_call_of_module(torch: Any) -> bool:
    """Return whether a module of torch is being called; reading no frame's locals, which would keep them alive."""
    call = torch.nn.Module._call_impl.__code__
    frame = sys._getframe(1).f_back
    while frame is not None and frame.f_code is not call:
        frame = frame.f_back
    return frame is not None
