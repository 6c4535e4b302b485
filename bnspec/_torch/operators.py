"""Operators of torch for bnspec's functions: what a graph of ``torch.compile``, export or ``make_fx`` holds of them.

An operator takes tensors and texts only. The configuration travels as the JSON that `BatchNormConfig.to_json` writes,
so that a saved graph says what it computes. An operator runs the public function, so that checks by values, refusals
and kernels are those of every other call; for a graph that is being written it gives the shapes of the results. An
absent tensor among the results is one without elements.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from bnspec._batch_norm import batch_norm as _batch_norm
from bnspec._batch_norm import batch_norm_inference as _infer
from bnspec._checks import arguments
from bnspec._checks.elements import below_zero
from bnspec._config import BatchNormConfig
from bnspec._derivatives import batch_norm_vjp as _pull_back
from bnspec._dtypes import arithmetic_dtype
from bnspec._errors import refusal
from bnspec._masks import mask_of, one_count
from bnspec._running import too_few
from bnspec._torch.function import Call, cotangents_of_moments, of_formulas
from bnspec._types import Groups, Moments, Params, RunningState, Saved, Static
from bnspec._update import update_running as _update

__all__ = ["admitted", "batch_norm", "check", "infer", "pull_back", "settled", "update"]

_Tensors4 = tuple[Tensor, Tensor, Tensor, Tensor]
_Tensors9 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("bnspec::batch_norm", mutates_args=())
def batch_norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor | None, var: Tensor | None,
    stddev: Tensor | None, renorm_mean: Tensor | None, renorm_stddev: Tensor | None, mask: Tensor | None,
    lengths: Tensor | None, config: str, name: str,
) -> _Tensors9:  # fmt: skip
    """Return y, count, mean, its low part, m2, 1/sqrt(var + epsilon), the divisor, and renorm's r and d.

    Where lengths are given the mask is theirs, and they are here for what is refused of their values.
    """
    state = _state(mean, var, None, stddev, renorm_mean, renorm_stddev)
    more: dict[str, Any] = {"mask": mask} if lengths is None else {"lengths": lengths}
    with torch.no_grad():
        params = Params(_plain(gamma), _plain(beta))
        y, stats, saved = _batch_norm(_plain(x), params, _config(config), state=state, name=name, **more)
        found = (*stats, saved.inverse_stddev, saved.divisor, *(_or_none(v, y) for v in (saved.r, saved.d)))
        return _laid_out(y, x), *_apart(found)


@batch_norm.register_fake
def _shapes_of_batch_norm(
    x: Any, gamma: Any, beta: Any, mean: Any, var: Any, stddev: Any, renorm_mean: Any, renorm_stddev: Any, mask: Any,
    lengths: Any, config: str, name: str,
) -> Any:  # fmt: skip
    c, state = _config(config), _state(mean, var, None, stddev, renorm_mean, renorm_stddev)
    own: tuple[Any, Any] = (mask, None) if lengths is None else (None, lengths)
    groups = arguments.forward(x, Params(gamma, beta), c, state, *own, None, name)
    shape = (groups.number, x.shape[groups.axis])
    plain = one_count(None if mask is None else mask_of(x, groups.axis, mask, None), groups)
    count = x.new_empty(shape[:1] if plain else shape, dtype=torch.int64)
    divisor = torch.empty_like(count, dtype=arithmetic_dtype(x))
    corrections = [_wide(x, shape if c.renorm is not None else (0,)) for _ in range(2)]
    return torch.empty_like(x), count, *(_wide(x, shape) for _ in range(4)), divisor, *corrections


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, gamma, beta, mean, var, stddev, renorm_mean, renorm_stddev, mask, _, config, name = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gamma, beta, mean, var, stddev, renorm_mean, renorm_stddev, mask, *output[1:])
    ctx.about = (config, name)


def _backward(ctx: Any, dy: Any, dcount: Any, dmean: Any, dlow: Any, dm2: Any, dinverse: Any, *others: Any) -> Any:
    x, gamma, beta, *fields, mask, count, mean, low, _, inverse, divisor, r, d = ctx.saved_tensors
    config, name = ctx.about
    if torch.is_grad_enabled():  # the gradient is to be differentiated in its turn
        c = _config(config)
        groups = arguments.forward(
            x, Params(gamma, beta), c, _state(*fields[:2], None, *fields[2:]), mask, None, None, name
        )
        call = Call(c, groups, _state(*fields[:2], None, *fields[2:]), mask, None, name)
        wanted = [v is not None and v.requires_grad for v in (x, gamma, beta)]
        found = of_formulas(call, x, Params(gamma, beta), wanted, (dmean, dm2, dinverse, dy))
    else:
        dy = torch.zeros_like(x) if dy is None else dy
        dvar = cotangents_of_moments(dm2, dinverse, count, inverse)
        found = pull_back(dy, x, gamma, beta, mask, mean, low, inverse, divisor, r, d, dmean, dvar, config, name, False)
    return *_of(found, gamma, beta), *[None] * 9


batch_norm.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("bnspec::pull_back", mutates_args=())
def pull_back(
    dy: Tensor, x: Tensor, gamma: Tensor | None, beta: Tensor | None, mask: Tensor | None, centre: Tensor,
    centre_low: Tensor, inverse: Tensor, divisor: Tensor | None, r: Tensor | None, d: Tensor | None,
    dmean: Tensor | None, dvar: Tensor | None, config: str, name: str, frozen: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return dx, dgamma and dbeta."""
    c, shape = _config(config), centre.shape
    axis = c.axis % x.ndim
    r, d = (None if v is None or not v.numel() else v for v in (r, d))
    whole = None if mask is None else mask_of(x, axis, mask, None)
    static = Static(Groups(axis, shape[0]), c, name, frozen=frozen)
    arrays = map(_plain, (x, whole, gamma, beta, centre, centre_low, inverse, divisor, r, d))
    with torch.no_grad():
        dx, dgamma, dbeta = _pull_back(dy, Saved._make((*arrays, static)), dmean=dmean, dvar=dvar)
    return _laid_out(dx, x), _or_none(dgamma, x), _or_none(dbeta, x)


@pull_back.register_fake
def _shapes_of_pull_back(dy: Any, x: Any, gamma: Any, beta: Any, *others: Any) -> Any:
    return torch.empty_like(x), *(x.new_empty(0) if v is None else torch.empty_like(v) for v in (gamma, beta))


@torch.library.custom_op("bnspec::infer", mutates_args=())
def infer(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor, count: Tensor | None,
    config: str, name: str,
) -> _Tensors4:  # fmt: skip
    """Return y, and of the running statistics the mean, its low part and 1/sqrt(var + epsilon)."""
    c = _config(config)
    with torch.no_grad():
        state = _whole_state(c, mean, var, count)
        y, saved = _infer(_plain(x), Params(_plain(gamma), _plain(beta)), state, c, name=name)
        return _laid_out(y, x), *_apart((saved.centre, saved.centre_low, saved.inverse_stddev))


@infer.register_fake
def _shapes_of_infer(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, count: Any, config: str, name: str) -> Any:
    c = _config(config)
    arguments.inference(x, Params(gamma, beta), _whole_state(c, mean, var, count), c, name)
    return torch.empty_like(x), *(_wide(x, (1, *mean.shape)) for _ in range(3))


def _setup_frozen(ctx: Any, inputs: Any, output: Any) -> None:
    x, gamma, beta, *_, config, name = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gamma, beta, *output[1:])
    ctx.about = (config, name)


def _backward_frozen(ctx: Any, dy: Any, *others: Any) -> Any:
    if dy is None:
        return (None,) * 8
    x, gamma, beta, *stats = ctx.saved_tensors
    found = pull_back(dy, x, gamma, beta, None, *stats, None, None, None, None, None, *ctx.about, True)
    return *_of(found, gamma, beta), *[None] * 5


infer.register_autograd(_backward_frozen, setup_context=_setup_frozen)


def _lean(schema: str, run: Any, shapes: Any) -> Any:
    """Return an operator that costs a call little: a layer of a compiled model calls it in each step.

    ``torch.library.custom_op`` looks at every call for graphs and for results that share memory with arguments, which
    takes longer than some calls do. So the arguments here are in no graph, and the results are new tensors.
    """
    name = "bnspec::" + schema.partition("(")[0]
    torch.library.define(name, schema.partition(name.partition("::")[2])[2])
    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, shapes)
    return getattr(torch.ops.bnspec, name.partition("::")[2]).default


def _run_update(*given: Any) -> Any:
    *arrays, config, name = given
    state, moments = RunningState(*arrays[:6]), Moments(*arrays[6:])
    new = _update(state, moments, _config(config), name=name)
    return _apart([_or_none(v, state.mean) for v in new], arrays)


def _shapes_of_update(
    mean: Any, var: Any, count: Any, stddev: Any, renorm_mean: Any, renorm_stddev: Any, *others: Any
) -> Any:
    fields = (mean, var, count, stddev, renorm_mean, renorm_stddev)
    return tuple(mean.new_empty(0) if v is None else torch.empty_like(v) for v in fields)


#: The running state after one batch; it refuses values when it runs.
update = _lean(
    "update(Tensor mean, Tensor var, Tensor? count, Tensor? stddev, Tensor? renorm_mean, Tensor? renorm_stddev, "
    "Tensor batch_count, Tensor batch_mean, Tensor batch_low, Tensor batch_m2, str config, str name) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run_update,
    _shapes_of_update,
)


def _run_admitted(lowest: Any, channels: int, config: str, name: str) -> Any:
    *numbers, few = lowest.tolist()
    for what, v in zip(("state.var", "state.count", "stats.m2", "stats.count"), numbers, strict=True):
        if v < 0:
            raise below_zero(what, (channels,), name, "Make the state with bnspec.init, and take batch_norm's moments.")
    if few:
        raise too_few(int(few), f"({channels} channels)", _config(config), name)
    return torch.ones((), dtype=torch.bool)


#: Whether an update goes on: it is refused for numbers below 0, and for counts that its correction does not leave.
admitted = _lean(
    "admitted(Tensor lowest, SymInt channels, str config, str name) -> Tensor",
    _run_admitted,
    lambda lowest, channels, config, name: lowest.new_empty((), dtype=torch.bool),
)


def _check(what: str, given: Any, config: str, name: str) -> Any:
    if what == "forward":
        arguments.forward(given[0], Params(*given[1:]), _config(config), None, None, None, None, name)
    elif what == "inference":
        arguments.inference(given[0], Params(*given[1:3]), RunningState(*given[3:]), _config(config), name)
    elif what == "running":
        arguments.running(RunningState(*given[:6]), Moments(*given[6:]), _config(config), name)
    else:
        raise refusal(
            TypeError,
            "BN-GRAD-7",
            got=f"{name}: a mask, lengths or renorm inside a derivative of torch.func inside torch.compile",
            expected="a plain or ghost batch there",
            do="Compile what is differentiated, or take the derivative by torch.autograd.",
        )
    return torch.empty(0)


#: Nothing: it refuses, when a graph is written, what a function does; no graph keeps it, since nobody uses its result.
check = _lean("check(str what, Tensor?[] given, str config, str name) -> Tensor", _check, _check)

#: The same numbers, which a compiler takes as they are: it would rather compute them anew for each element of x.
settled = _lean("settled(Tensor numbers) -> Tensor", torch.clone, torch.empty_like)


def _one_by_one(operator: Any) -> Any:
    """Return the rule of ``torch.vmap`` for an operator: one call for each part of the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> Any:
        parts = [
            operator(*(v if at is None else v.select(at, i) for v, at in zip(given, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        found = tuple(map(torch.stack, zip(*parts, strict=True)))
        return found, (0,) * len(found)

    return rule


for _operator in (batch_norm, pull_back, infer):
    _operator.register_vmap(_one_by_one(_operator))
for _name, _operator in (("update", update), ("admitted", admitted)):
    torch.library.register_vmap(f"bnspec::{_name}", _one_by_one(_operator))


@torch.library.register_vmap("bnspec::check")  # type: ignore[untyped-decorator]
def _check_one(info: Any, in_dims: Any, what: str, given: Any, config: str, name: str) -> Any:
    one = [v if at is None else v.select(at, 0) for v, at in zip(given, in_dims[1], strict=True)]
    return check(what, one, config, name), None


@functools.lru_cache(maxsize=1024)
def _config(text: str) -> BatchNormConfig:
    return BatchNormConfig.from_json(text)


def _state(mean: Any, *others: Any) -> RunningState | None:
    return None if mean is None else RunningState(mean, *others)


def _whole_state(config: BatchNormConfig, mean: Any, var: Any, count: Any) -> RunningState:
    """Return a state with the fields that a configuration asks for, of which inference reads the first ones."""
    state = RunningState(mean, var, count)
    if config.renorm is None:
        return state
    state = state._replace(stddev=torch.ones_like(mean))
    if config.renorm.form == "paper":
        return state
    return state._replace(renorm_mean=torch.zeros_like(mean), renorm_stddev=torch.ones_like(mean))


def _plain(v: Any) -> Any:
    return v if v is None else v.detach()


def _or_none(v: Any, like: Any) -> Any:
    return like.new_empty(0) if v is None else v


def _of(found: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    """Return gradients with None for parameters that do not exist."""
    return found[0], *(None if v is None else g for v, g in zip((gamma, beta), found[1:], strict=True))


def _wide(x: Any, shape: Any) -> Any:
    return x.new_empty(shape, dtype=arithmetic_dtype(x))


def _laid_out(y: Any, x: Any) -> Any:
    """Return y as a graph was told that it lies: as ``torch.empty_like(x)`` does."""
    like = torch.empty_like(x, device="meta")
    return y if y.stride() == like.stride() else torch.empty_like(x).copy_(y)


def _apart(tensors: Any, given: Any = ()) -> Any:
    """Return tensors of which no two are one, and none is a given one, which a graph may not be given."""
    found: list[Any] = []
    for v in tensors:
        found.append(v.clone() if any(v is other for other in (*found, *given)) else v)
    return tuple(found)
