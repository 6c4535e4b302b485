"""Normalization by the batch, and by running statistics, as one function of torch's graph, whatever the options are.

Its forward pass runs kernels on tensors without a graph. Its backward pass is `Kernels.pull_back`, so that ranks join
the sums that the explicit derivative joins, and masks and renorm stay on the kernels that serve plain calls. While a
graph of the gradient itself is made, the gradient is torch's differentiation of the specification's formulas, in whose
middle a message between ranks has rules of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig
from bnspec._kernels import Kernels
from bnspec._types import Groups, Moments, Normalized, Params, RunningState, Saved, Static, per_channel

__all__ = [
    "Call", "cotangents_of_moments", "inference_through_graph", "of_formulas", "of_inference", "through_graph",
]  # fmt: skip


class Call(NamedTuple):
    """Arguments of a forward pass beside x and the parameters: all of them are constant to the derivatives."""

    config: BatchNormConfig
    groups: Groups
    state: RunningState | None = None
    mask: Any = None
    comm: Communicator | None = None
    name: str = "batch_norm"

    def more(self) -> dict[str, Any]:
        """Return the keywords of `Kernels.forward`."""
        return {"state": self.state, "mask": self.mask, "comm": self.comm, "name": self.name}


def through_graph(
    kernels: Kernels, forward: Callable[..., tuple[Moments, Normalized]], x: Any, params: Params, call: Call
) -> tuple[Moments, Normalized]:
    """Return what `forward` computes, as results of one node of the graph.

    Parameters
    ----------
    kernels : Kernels
        Their `pull_back` is the derivative.
    forward : callable
        ``forward(x, params, config, groups, **more)``, for tensors that nobody records.
    x : tensor
    params : Params
    call : Call
    """
    found = _Forward.apply(x, *params, call, kernels, forward)  # type: ignore[no-untyped-call]
    count, mean, low, m2, inverse, y, *rest = found
    if not rest:
        rest = [count.to(inverse.dtype)]
    return Moments(count, mean, low, m2), Normalized(y, mean, low, inverse, *rest)


class _Forward(torch.autograd.Function):
    """Function of x, gamma and beta; returns count, mean, its low part, m2, 1/sqrt(var + epsilon), y, and the rest.

    The rest is the divisor, and renorm's r and d; it is left out where the divisor is the count.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, gamma: Any, beta: Any, call: Call, kernels: Kernels, forward: Any) -> Any:
        given = (v if v is None else v.detach() for v in (gamma, beta))
        stats, done = forward(x.detach(), Params(*given), call.config, call.groups, **call.more())
        rest = [] if done.divisor is None else [v for v in (done.divisor, done.r, done.d) if v is not None]
        ctx.save_for_backward(x, gamma, beta, call.mask, stats.mean, stats.mean_low, done.inverse_stddev)
        if call.config.renorm is not None and call.state is not None:  # modules are about to move it in place
            call = call._replace(state=RunningState(*(v if v is None else v.clone() for v in call.state)))
        ctx.about = (call._replace(mask=None), kernels, stats.count, rest)
        ctx.mark_non_differentiable(stats.count, stats.mean_low, *rest)
        ctx.set_materialize_grads(False)
        return stats.count, stats.mean, stats.mean_low, stats.m2, done.inverse_stddev, done.y, *rest

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, gamma, beta, mask, mean, low, inverse = ctx.saved_tensors
        call, kernels, count, rest = ctx.about
        call = call._replace(mask=mask)
        if torch.is_grad_enabled():  # the gradient is to be differentiated in its turn
            wanted = ctx.needs_input_grad[:3]
            given = (grads[1], grads[3], grads[4], grads[5])
            return *of_formulas(call, x, Params(gamma, beta), wanted, given), None, None, None

        _, dmean, _, dm2, dinverse, dy, *_ = grads
        dy = torch.zeros_like(x) if dy is None else dy
        dvar = cotangents_of_moments(dm2, dinverse, count, inverse)
        done = Normalized(None, mean, low, inverse, *(rest or [count.to(inverse.dtype)]))
        saved = Saved.of(x, mask, Params(gamma, beta), done, Static(call.groups, call.config, call.name))
        found = kernels.pull_back(dy, saved, comm=call.comm, dmean=dmean, dvar=dvar)
        return *found, None, None, None


def inference_through_graph(
    kernels: Kernels, infer: Callable[..., Normalized], x: Any, params: Params, mean: Any, var: Any, *about: Any
) -> Normalized:
    """Return what `infer` computes, as results of one node of the graph: the bits of a call that nobody differentiates.

    Parameters
    ----------
    kernels : Kernels
        Their `pull_back` is the derivative.
    infer : callable
        ``infer(x, params, mean, var, epsilon, groups)``, for tensors that nobody records.
    x : tensor
    params : Params
    mean, var : tensor, shape (C,)
        Constants to the derivatives.
    *about
        epsilon and groups.
    """
    found = _Inference.apply(x, *params, mean, var, about, kernels, infer)  # type: ignore[no-untyped-call]
    return Normalized(*found)


class _Inference(torch.autograd.Function):
    """Function of x, gamma and beta; returns y, and the centre, its low part and 1/sqrt(var + epsilon)."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, gamma: Any, beta: Any, mean: Any, var: Any, about: Any, kernels: Kernels, infer: Any
    ) -> Any:
        given = (v if v is None else v.detach() for v in (gamma, beta))
        y, centre, low, inverse, *_ = infer(x.detach(), Params(*given), mean, var, *about)
        ctx.save_for_backward(x, gamma, beta, mean.clone(), var.clone(), inverse)  # modules move their state in place
        ctx.about = (about, kernels)
        ctx.mark_non_differentiable(centre, low, inverse)
        ctx.set_materialize_grads(False)
        return y, centre, low, inverse

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, gamma, beta, mean, var, inverse = ctx.saved_tensors
        (epsilon, groups), kernels = ctx.about
        if grads[0] is None:
            return (None,) * 8
        if torch.is_grad_enabled():  # the gradient is to be differentiated in its turn
            found = of_inference(x, Params(gamma, beta), mean, var, epsilon, groups, ctx.needs_input_grad[:3], grads[0])
            return *found, *(None,) * 5
        centre = mean.to(inverse.dtype)[None, :]
        done = Normalized(None, centre, torch.zeros_like(centre), inverse)
        saved = Saved.of(x, None, Params(gamma, beta), done, Static(groups, None, "", frozen=True))
        return *kernels.pull_back(grads[0], saved), *(None,) * 5


def cotangents_of_moments(dm2: Any, dinverse: Any, count: Any, inverse: Any) -> Any:
    """Return the cotangent of var that those of ``m2 = count*var`` and ``inverse = (var + epsilon)**(-1/2)`` make."""
    dvar = None if dm2 is None else dm2 * per_channel(count.to(dm2.dtype))
    if dinverse is None:
        return dvar
    own = -0.5 * dinverse * inverse**3
    return own if dvar is None else dvar + own


def of_formulas(call: Call, x: Any, params: Params, wanted: Any, grads: Any) -> list[Any]:
    """Return the gradients as torch's own differentiation of the specification, which it can differentiate again.

    Parameters
    ----------
    call : Call
    x : tensor
    params : Params
    wanted : sequence of bool
        Whether x, gamma and beta need a gradient.
    grads : sequence of tensor or None
        Cotangents of mean, m2, 1/sqrt(var + epsilon) and y.
    """
    stats, done = Kernels().forward(x, params, call.config, call.groups, **call.more())
    outputs = (stats.mean, stats.m2, done.inverse_stddev, done.y)
    pairs = [(v, d) for v, d in zip(outputs, grads, strict=True) if d is not None]
    results, directions = zip(*pairs, strict=True)
    return _gradients_of(results, directions, (x, *params), wanted)


def of_inference(
    x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups, wanted: Any, dy: Any
) -> list[Any]:
    """Return the same where x is normalized by given statistics, which are constants."""
    y = Kernels().infer(x, params, mean, var, epsilon, groups).y
    return _gradients_of([y], [dy], (x, *params), wanted)


def _gradients_of(results: Any, directions: Any, leaves: Any, wanted: Any) -> list[Any]:
    """Return the gradients that are wanted, with a graph of their own, and None for the others."""
    asked = [v for v, needed in zip(leaves, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(results, asked, directions, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in wanted]
