"""Normalization by the batch as formulas, for a compiler that fuses them with what comes before and after.

An operator is a wall to ``torch.compile``: it cannot be fused with an activation, and the arrays beside it must lie as
it asks. These are the specification's formulas in the arithmetic dtype, in the form that reads x the fewest times, and
with the explicit derivative: two sums and one elementwise pass each way.
"""

import math
from typing import Any, NamedTuple

import torch

from bnspec._arrays import array_namespace
from bnspec._config import BatchNormConfig
from bnspec._gradients import input_coefficients, parameter_gradients
from bnspec._groups import reduced_axes, split, spread, unsplit
from bnspec._normalize import inverse_stddev, normalize, scale_and_shift
from bnspec._running import advance, used_statistics
from bnspec._torch import operators
from bnspec._types import Groups, Moments, Params, RunningState, Saved, Static

__all__ = ["batch_norm", "infer", "moments", "update"]

for _kind in (torch.Tensor, torch.nn.Parameter):  # a namespace is looked up here, since no compiler can trace that
    array_namespace(torch.empty(0).as_subclass(_kind))


def batch_norm(x: Any, params: Params, static: Static, inside: bool) -> tuple[Any, Moments, Saved]:
    """Return what `bnspec.batch_norm` returns for x with elements, without mask, renorm and ranks.

    Parameters
    ----------
    x : tensor
        Narrower than float64, so that plain sums are as good as exact ones.
    params : Params
    static : Static
    inside : bool
        Whether a transformation of torch.func has rules for each operation: it differentiates the formulas themselves,
        to any order.
    """
    groups, (epsilon, _) = static.groups, _decimals(static.config.text)
    of: Any = _normalized if inside else _Normalized.apply
    y, mean, low, m2, _ = of(x, *params, groups.axis, groups.number, epsilon)
    number = _elements(x, groups)
    count = torch.full((groups.number,), number, dtype=torch.int64, device=x.device)
    inverse = inverse_stddev(m2 / number, epsilon)
    divisor = count.to(inverse.dtype)
    saved = Saved(x, None, params.gamma, params.beta, mean, low, inverse, divisor, None, None, static)
    return y, Moments(count, mean, low, m2), saved


def moments(x: Any, groups: Groups) -> tuple[Any, Any, Any]:
    """Return mean, its low part and m2 of each group, shape (G, C), by two passes.

    The first measures from an element of the data, so that a constant channel has a mean without error; the second
    corrects the mean and m2 by what the first mean misses (Chan, Golub, LeVeque 1983, eq. 1.7).
    """
    axes, number = reduced_axes(x, groups), _elements(x, groups)
    parts = split(x, groups)
    shift = parts
    for axis in axes:
        shift = shift.narrow(axis, 0, 1)
    shift, v = shift.detach().to(torch.float64), parts.to(torch.float64)
    mean = (shift + torch.sum(v - shift, axes, keepdim=True) / number).flatten(1)
    deviation = v - spread(mean, x, groups)
    rest = torch.sum(deviation, axes)
    low = rest / number
    m2 = torch.sum(deviation * deviation, axes) - rest * low
    return mean, low, torch.clamp(m2, min=0.0)


def infer(x: Any, params: Params, state: RunningState, config: BatchNormConfig) -> tuple[Any, Any, Any, Any]:
    """Return y, and of the running statistics the mean, its low part and 1/sqrt(var + epsilon)."""
    epsilon, decay = _decimals(config.text)
    mean, var = state.mean.detach().to(torch.float64), state.var.detach().to(torch.float64)
    options: Any = _Options(decay, *_words(config))
    mean, var = (v[None] for v in used_statistics(state._replace(mean=mean, var=var), options))
    low, inverse = torch.zeros_like(mean), inverse_stddev(var, epsilon)
    scale, shift = scale_and_shift(params, inverse, low, None, None)
    return normalize(x, mean, scale, shift, Groups(config.axis % x.ndim, 1)), mean, low, inverse


def update(state: RunningState, stats: Moments, config: BatchNormConfig, name: str) -> RunningState:
    """Return what `bnspec.update_running` returns, for averages of one group.

    Values are refused when the graph runs, by the one number of each array that decides it, and before anything depends
    on the new state.
    """
    count, least = stats.count[:1], config.correction if config.single_value == "raise" else 0
    few = torch.amax(torch.where(count > least, torch.zeros_like(count), count)).to(torch.float64)
    lowest = [_lowest(v) for v in (state.var, state.count, stats.m2, stats.count)]
    admitted = operators.admitted(torch.stack([*lowest, few]), state.mean.shape[0], config.text, name)
    _, decay = _decimals(config.text)
    options: Any = _Options(decay, *_words(config))
    new: Any = advance(state, stats, options, name)
    chosen: list[Any] = [None if old is None else torch.where(admitted, v, old) for v, old in zip(new, state)]
    return RunningState(*chosen)


class _Options(NamedTuple):
    """The fields of a configuration that the average of one group is made by."""

    decay: float
    correction: int
    averaging: str
    ghost_source: str
    single_value: str
    nonfinite: str
    counts_updates: bool
    renorm: None = None


def _words(config: BatchNormConfig) -> tuple[Any, ...]:
    return (
        config.correction, config.averaging, config.ghost_source, config.single_value, config.nonfinite,
        config.counts_updates,
    )  # fmt: skip


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _decimals(text: str) -> tuple[float, float]:
    """Return epsilon and decay as part of the graph: where shapes are symbols, so are the attributes of an object."""
    config = BatchNormConfig.from_json(text)
    return config.epsilon, config.decay


def _lowest(v: Any) -> Any:
    """Return the lowest number below 0, or 0."""
    if v is None:
        return torch.zeros((), dtype=torch.float64)
    return torch.amin(torch.where(v < 0, v, torch.zeros_like(v))).to(torch.float64)


def _normalized(
    x: Any, gamma: Any, beta: Any, axis: int, number: int, epsilon: float, settle: Any = lambda *v: v
) -> Any:
    groups = Groups(axis, number)
    mean, low, m2 = moments(x, groups)
    inverse = inverse_stddev(m2 / _elements(x, groups), epsilon)
    scale, shift = scale_and_shift(Params(gamma, beta), inverse, low, None, None)
    scale, shift = settle(scale, shift)
    y = normalize(x, mean, scale, shift, groups)
    return y, mean, low, m2, inverse


class _Normalized(torch.autograd.Function):
    """The same with the explicit derivative, which a compiler traces as it does the rest."""

    @staticmethod
    def forward(x: Any, gamma: Any, beta: Any, axis: int, number: int, epsilon: float) -> Any:
        return _normalized(x, gamma, beta, axis, number, epsilon, _settled)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, gamma, beta, *ctx.about = inputs
        _, mean, low, _, inverse = output
        ctx.save_for_backward(x, gamma, beta, mean, low, inverse)
        ctx.mark_non_differentiable(low, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x, gamma, beta, mean, low, inverse), (axis, number, _) = ctx.saved_tensors, ctx.about
        dy, dmean, _, dm2, _ = grads
        groups = Groups(axis, number)
        n = _elements(x, groups)
        divisor = torch.full_like(inverse, n)
        static = Static(groups, None, "")
        saved = Saved(x, None, gamma, beta, mean, low, inverse, divisor, None, None, static)
        g, centred = split(dy, groups).to(torch.float64), split(x, groups).to(torch.float64) - spread(mean, x, groups)
        axes = reduced_axes(x, groups)
        s1 = torch.sum(g, axes)
        s2 = torch.sum(g * centred, axes) - low * s1
        a, b, c = input_coefficients(s1, s2, dmean, dm2 * n, saved)
        a, b, c = (spread(v, x, groups) for v in _settled(a, b, c - b * low))
        dx = unsplit((g * a + (centred * b + c)).to(x.dtype), x)
        return dx, *parameter_gradients(s1, s2, saved), None, None, None


def _settled(*numbers: Any) -> Any:
    """Return numbers of which a channel has one, computed once and not anew for each element that they meet."""
    return operators.settled(torch.stack(numbers)).unbind()


def _elements(x: Any, groups: Groups) -> int:
    """Return the number of elements of each group and channel, from shapes alone."""
    number: int = math.prod([n for axis, n in enumerate(x.shape) if axis != groups.axis]) // groups.number
    return number
