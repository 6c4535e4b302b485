"""Whole calls of a module of torch, on tensors in the memory of the host that nobody watches.

bnspec's functions check, choose and keep at each call what a module has settled: its options, and that its parameters
fit. On small images that takes longer than the numbers. Here a call is the compiled code of the functions, so that all
bits are theirs, a move of the state where it lies, and one node of torch's graph, whose only result is y.
"""

from typing import Any

import torch
from torch.autograd.graph import increment_version

from bnspec import BatchNormConfig, Gradients, Groups, Kernels, Moments, Normalized, Params, Saved
from bnspec._modes import readable
from bnspec._torch.function import Call, of_formulas, of_inference
from bnspec._types import Static
from bnspec_backends.cpu import state_operations
from bnspec_backends.cpu.compiled.dtypes import compiles_half
from bnspec_backends.cpu.compiled_kernels import CompiledKernels
from bnspec_backends.cpu.torch_memory import array_of, tensor_of

__all__ = ["BatchCall", "RunningCall", "serves"]

_COMPILED = CompiledKernels()


def serves(x: Any) -> bool:
    """Return whether compiled code takes a tensor."""
    return x.numel() > 0 and (x.dtype != torch.float16 or compiles_half())


class _WholeCall:
    """Call of a module; made for one forward pass, and kept for its backward pass."""

    __slots__ = ("config", "done", "groups", "kernels", "name", "statistics")

    #: The forward pass as arrays of NumPy, without y.
    done: Normalized
    #: What x was normalized by, beside its own statistics, as it was then.
    statistics: tuple[Any, ...]

    def __init__(self, kernels: Kernels, groups: Groups, config: BatchNormConfig, name: str) -> None:
        self.kernels, self.groups, self.config, self.name = kernels, groups, config, name

    def normalize(self, x: Any, params: Params, *statistics: Any) -> Any:
        """Return y, and keep what the backward pass needs."""
        if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (x, *params)):
            return _Function.apply(x, *params, statistics, self)  # type: ignore[no-untyped-call]
        return self.compute(x, params, *statistics)

    def compute(self, x: Any, params: Params, *statistics: Any) -> Any:
        """Return y without a graph of it."""
        raise NotImplementedError

    def pull_back(self, dy: Any, x: Any, params: Params) -> Gradients:
        """Return the gradients without a graph of them."""
        static = Static(self.groups, self.config, self.name, frozen=self.done.divisor is None)
        if not readable(dy, x, *params):
            done = Normalized(*(v if v is None else tensor_of(v) for v in self.done))
            return self.kernels.pull_back(dy, Saved.of(x, None, params, done, static))
        saved = Saved.of(array_of(x), None, Params(*map(array_of, params)), self.done, static)
        found = _COMPILED.pull_back(array_of(dy), saved)
        return Gradients(*(v if v is None else tensor_of(v) for v in found))

    def formulas(self, dy: Any, x: Any, params: Params, wanted: Any) -> list[Any]:
        """Return the gradients with a graph of their own."""
        raise NotImplementedError


class BatchCall(_WholeCall):
    """Normalization by the batch."""

    __slots__ = ("stats",)

    #: Moments of the batch, as arrays of NumPy.
    stats: Moments

    def compute(self, x: Any, params: Params, *statistics: Any) -> Any:
        given = Params(*map(array_of, params))
        self.stats, done = _COMPILED.forward(array_of(x), given, self.config, self.groups)
        self.done = done._replace(y=None)
        return tensor_of(done.y)

    def advance(self, mean: Any, var: Any, updates: Any) -> bool:
        """Move a module's state where it lies, and count the update; return False, having done nothing, if not served.

        Not served are options that need more than a mean and a variance, and values that are to be refused.
        """
        if not state_operations.advance(array_of(mean), array_of(var), array_of(updates), self.stats, self.config):
            return False
        for v in (mean, var, updates):  # whoever kept one for a gradient is to hear of it
            if v is not None and not v.is_inference():
                increment_version(v)
        return True

    def moments(self) -> Moments:
        """Return the moments of the batch as tensors."""
        return Moments(*map(tensor_of, self.stats))

    def formulas(self, dy: Any, x: Any, params: Params, wanted: Any) -> list[Any]:
        call = Call(self.config, self.groups, name=self.name)
        return of_formulas(call, x, params, wanted, (None, None, None, dy))


class RunningCall(_WholeCall):
    """Normalization by a mean and a variance that are constants to the derivatives."""

    __slots__ = ()

    def compute(self, x: Any, params: Params, *statistics: Any) -> Any:
        given, (mean, var) = Params(*map(array_of, params)), map(array_of, statistics)
        done = _COMPILED.infer(array_of(x), given, mean, var, self.config.epsilon, self.groups)
        self.done = done._replace(y=None)
        return tensor_of(done.y)

    def usable(self, var: Any) -> bool:
        """Return whether no variance is below 0; NaN is none that is [BN-RUN-14]."""
        return not array_of(var).min() < 0

    def formulas(self, dy: Any, x: Any, params: Params, wanted: Any) -> list[Any]:
        mean, var = self.statistics
        return of_inference(x, params, mean, var, self.config.epsilon, self.groups, wanted, dy)


class _Function(torch.autograd.Function):
    """Node of torch's graph: a function of x, gamma and beta, with y as its only result."""

    @staticmethod
    def forward(ctx: Any, x: Any, gamma: Any, beta: Any, statistics: Any, call: _WholeCall) -> Any:
        ctx.save_for_backward(x, gamma, beta)
        ctx.call = call
        call.statistics = tuple(v.clone() for v in statistics)  # modules move theirs in place
        return call.compute(x, Params(gamma, beta), *statistics)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, gamma, beta = ctx.saved_tensors
        params = Params(gamma, beta)
        if torch.is_grad_enabled():  # the gradient is to be differentiated in its turn
            return *ctx.call.formulas(grads[0], x, params, ctx.needs_input_grad[:3]), None, None
        return *ctx.call.pull_back(grads[0], x, params), None, None
