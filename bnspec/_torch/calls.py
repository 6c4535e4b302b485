"""The public functions while torch records: each is one operator, and the records around it are put together again.

The lines of this file are traced by ``torch.compile``, so they look at nothing but fields.
"""

from typing import Any

import torch

from bnspec._checks import arguments
from bnspec._config import BatchNormConfig
from bnspec._errors import refusal
from bnspec._masks import mask_of
from bnspec._modes import exporting, untraced
from bnspec._running import used_statistics
from bnspec._torch import fused, operators
from bnspec._types import Gradients, Groups, Moments, Params, RunningState, Saved, Static

__all__ = ["batch_norm", "batch_norm_inference", "batch_norm_vjp", "by_torch", "no_schedule", "update_running"]


def batch_norm(
    x: Any, params: Params, config: BatchNormConfig, *, state: Any, mask: Any, lengths: Any, comm: Any, name: str
) -> tuple[Any, Moments, Saved]:
    """Do what `bnspec.batch_norm` does, as one operator."""
    if comm is not None:
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"{name}: statistics of ranks to be joined while torch records a graph",
            expected="tensors with values, which ranks can exchange",
            do="Keep the layer out of the graph, for example by torch.compiler.disable.",
        )
    if not torch.compiler.is_compiling():
        arguments.forward(x, params, config, state, mask, lengths, comm, name)
    axis = config.axis % x.ndim
    inside = _inside() if torch.compiler.is_compiling() else ""
    if torch.compiler.is_compiling() and mask is None and lengths is None and _fuses(x, config, inside):
        given = [v if v is None else v.detach() for v in (x, *params)]
        operators.check("forward", given, config.text, name)
        groups = Groups(axis, 1 if config.virtual_batch_size is None else x.shape[0] // config.virtual_batch_size)
        return fused.batch_norm(x, params, Static(groups, config, name), bool(inside))
    if inside == "derivative":
        operators.check("derivative", [], config.text, name)
    mask = mask_of(x, axis, mask, lengths)
    used: Any = (None,) * 5
    if config.renorm is not None and state is not None:
        used = (state.mean, state.var, state.stddev, state.renorm_mean, state.renorm_stddev)
        used = tuple([v if v is None else v.clone() for v in used])  # modules move their state in place
    y, count, mean, low, m2, inverse, divisor, r, d = operators.batch_norm(
        x, params.gamma, params.beta, *used, mask, lengths, config.text, name
    )
    r, d = (None, None) if config.renorm is None else (r, d)
    virtual = config.virtual_batch_size
    static = Static(Groups(axis, 1 if virtual is None else x.shape[0] // virtual), config, name)
    saved = Saved(x, mask, params.gamma, params.beta, mean, low, inverse, divisor, r, d, static)
    return y, Moments(count, mean, low, m2), saved


def _fuses(x: Any, config: BatchNormConfig, inside: str) -> bool:
    """Return whether a compiler gets formulas in the place of an operator."""
    if exporting(x) or config.renorm is not None or 0 in x.shape:
        return False
    return bool(x.dtype != torch.float64 or inside == "derivative")


def _steps(stats: Moments, config: BatchNormConfig) -> bool:
    """Return whether a compiler gets formulas for the running state: everyday averages of one group, on the host."""
    if stats.m2.device.type != "cpu":  # nothing waits there for the values of which some are refused
        return False
    if exporting(stats.m2) or config.renorm is not None or config.averaging == "pooled" or config.nonfinite == "raise":
        return False
    return bool(0 not in stats.m2.shape and (stats.m2.shape[0] == 1 or config.ghost_source == "first"))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _inside() -> str:
    """Name what a graph is written inside of, which its guards look at: a derivative, another transformation, or ""."""
    c: Any = torch._C
    kinds = [level.key().name for level in c._functorch.get_interpreter_stack() or ()]
    return "derivative" if {"Grad", "Jvp"} & set(kinds) else "".join(kinds[:1])


def batch_norm_inference(
    x: Any, params: Params, state: RunningState, config: BatchNormConfig, *, name: str
) -> tuple[Any, Saved]:
    """Do what `bnspec.batch_norm_inference` does; in what is exported, by torch's own operator."""
    if not torch.compiler.is_compiling():
        untraced(arguments.inference, x, params, state, config, name)
    axis = config.axis % x.ndim
    static = Static(Groups(axis, 1), config, name, frozen=True)
    rest: Any
    if exporting(x):
        y = by_torch(x, params, state, config)
        wide = state.mean.to(torch.float64)[None]
        rest = [wide, torch.zeros_like(wide), 1.0 / torch.sqrt(state.var.to(torch.float64)[None] + config.epsilon)]
    elif torch.compiler.is_compiling() and _inside() == "derivative":
        given = [v if v is None else v.detach() for v in (x, *params, *state)]
        operators.check("inference", given, config.text, name)
        y, *rest = fused.infer(x, params, state, config)
    else:
        count = state.count if config.averaging == "debiased" else None
        y, *rest = operators.infer(x, params.gamma, params.beta, state.mean, state.var, count, config.text, name)
    centre, low, inverse = rest
    return y, Saved(x, None, params.gamma, params.beta, centre, low, inverse, None, None, None, static)


def batch_norm_vjp(dy: Any, saved: Saved, *, dmean: Any, dvar: Any) -> Gradients:
    """Do what `bnspec.batch_norm_vjp` does, as one operator."""
    if not torch.compiler.is_compiling():
        arguments.derivative("dy", dy, saved, None, dmean=dmean, dvar=dvar)
    config, name = saved.static.config, saved.static.name
    arrays = (saved.centre, saved.centre_low, saved.inverse_stddev, saved.divisor, saved.r, saved.d)
    dx, dgamma, dbeta = operators.pull_back(
        dy, saved.x, saved.gamma, saved.beta, saved.mask, *arrays, dmean, dvar, config.text, name, saved.static.frozen
    )
    return Gradients(dx, None if saved.gamma is None else dgamma, None if saved.beta is None else dbeta)


def update_running(state: RunningState, stats: Moments, config: BatchNormConfig, *, name: str) -> RunningState:
    """Do what `bnspec.update_running` does, as one operator; what it refuses by values, it refuses when it runs."""
    if not torch.compiler.is_compiling():
        arguments.running(state, stats, config, name)
    given = [None if v is None else v.detach() for v in (*state, *stats)]
    if torch.compiler.is_compiling() and _steps(stats, config):
        operators.check("running", given, config.text, name)
        return fused.update(RunningState(*given[:6]), Moments(*given[6:]), config, name)
    found = operators.update(*given, config.text, name)
    return RunningState(*(None if old is None else new for old, new in zip(state, found)))


def no_schedule(schedule: Any, name: str) -> None:
    """Refuse a schedule: an operator's configuration is a text in the graph, and no input of it."""
    if schedule is not None:
        raise refusal(
            TypeError,
            "BN-RENORM-9",
            got=f"{name}: a schedule while torch records a graph",
            expected="no schedule",
            do="Write the numbers into the configuration, or keep the layer out of the graph.",
        )


def by_torch(x: Any, params: Params, state: RunningState, config: BatchNormConfig) -> Any:
    """Normalize by the running statistics and torch's own operator, which every reader of an exported graph knows."""
    axis = config.axis % x.ndim
    mean, var = (v.detach() for v in used_statistics(state, config))
    gamma, beta = params
    gamma = torch.ones_like(mean) if gamma is None and beta is not None else gamma
    beta = torch.zeros_like(mean) if beta is None and gamma is not None else beta
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    given: list[Any] = [v if v is None or v.dtype == kind else v.to(kind) for v in (mean, var, gamma, beta)]
    first = x if axis == 1 else x.movedim(axis, 1)
    used_mean, used_var, weight, bias = given
    y = torch.nn.functional.batch_norm(first, used_mean, used_var, weight, bias, training=False, eps=config.epsilon)
    return y if axis == 1 else y.movedim(1, axis)
