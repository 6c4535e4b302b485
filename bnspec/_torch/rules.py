"""Derivative rules for what torch cannot differentiate by itself: a function that leaves torch, as a collective does.

A message between ranks is no operation of torch, and its derivative is another message. The function and its two rules
are written on array-API arrays; here they become one node of torch's graph. The rules are made of operations that torch
differentiates, and of such nodes, so derivatives of any order follow.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bnspec._arrays import Array, jax_tracer
from bnspec._errors import refusal
from bnspec._modes import differentiated, transformation

__all__ = ["refuse_stand_ins", "with_rules"]

_Arrays = Sequence[Array]


def with_rules(
    function: Callable[..., _Arrays],
    pull_back: Callable[[_Arrays, _Arrays, _Arrays], _Arrays],
    push_forward: Callable[[_Arrays, _Arrays, _Arrays], _Arrays],
    *arrays: Array,
) -> _Arrays:
    """Call a function on arrays that are part of no graph, and let torch differentiate the result by rules.

    Parameters
    ----------
    function : callable
        ``function(*arrays)`` returns a sequence of arrays.
    pull_back : callable
        ``pull_back(arrays, results, cotangents)`` returns the cotangents of the arrays; those of results that nobody
        used are zeros.
    push_forward : callable
        ``push_forward(arrays, results, tangents)`` returns the tangents of the results.
    *arrays : array
        Of one library. Where it is not torch, or torch differentiates none of them, the function is called and no
        more: JAX differentiates, or refuses, what the function itself does.

    Examples
    --------
    >>> import numpy as np
    >>> with_rules(lambda x: (x * x,), lambda x, y, g: g, lambda x, y, v: v, np.asarray([3.0]))[0].tolist()
    [9.0]
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(arrays[0], torch.Tensor) or not differentiated(*arrays):
        return function(*arrays)
    found: _Arrays = _node().apply(function, pull_back, push_forward, *arrays)
    return found


def refuse_stand_ins(what: str, clause: str, traceable: bool, *arrays: Array) -> None:
    """Refuse arrays without values of their own, where values have to leave their library.

    Parameters
    ----------
    what : str
        Of whom the values are, and where they are to go.
    clause : str
        That speaks of it.
    traceable : bool
        Whether tracers of JAX may go there, since the way is made of JAX's own operations.
    *arrays : array
        Of one library.
    """
    torch: Any = sys.modules.get("torch")
    of_torch = torch is not None and any(isinstance(v, torch.Tensor) for v in arrays)
    if not of_torch and (traceable or not any(isinstance(v, jax_tracer()) for v in arrays)):
        return
    if (found := transformation(*arrays)) is not None:
        raise refusal(
            TypeError,
            clause,
            got=f"{what}, inside {found}",
            expected=f"{'tensors' if of_torch else 'arrays'} with values, which ranks can exchange",
            do="Call it outside, where torch.autograd differentiates it in both modes and to every order."
            if of_torch
            else "Under JAX's transformations pass comm=bnspec_backends.ranks.AxisCommunicator(axis_name).",
        )


@functools.cache
def _node() -> Any:
    """Return the class of nodes; torch is imported by now, and only what needs it may name it."""
    import torch

    class Ruled(torch.autograd.Function):
        """Function with rules, as torch has it."""

        @staticmethod
        def forward(function: Any, pull_back: Any, push_forward: Any, *arrays: Any) -> Any:
            found = function(*(v.detach() for v in arrays))
            return tuple(v.clone() if v._is_view() else v for v in found)  # forward mode refuses parts of a whole

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            _, ctx.pull_back, ctx.push_forward, *arrays = inputs
            ctx.number = len(arrays)
            ctx.save_for_backward(*arrays, *output)
            ctx.save_for_forward(*arrays, *output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            given, results = ctx.saved_tensors[: ctx.number], ctx.saved_tensors[ctx.number :]
            return None, None, None, *ctx.pull_back(given, results, grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            given, results = ctx.saved_tensors[: ctx.number], ctx.saved_tensors[ctx.number :]
            found = [torch.zeros_like(v) if t is None else t for v, t in zip(given, tangents[3:], strict=True)]
            return tuple(ctx.push_forward(given, results, found))

    return Ruled
