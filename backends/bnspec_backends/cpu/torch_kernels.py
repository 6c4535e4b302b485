"""Kernels for torch tensors on the CPU: compiled, without a copy and without losing torch's own differentiation.

The kernels read and write the tensors' memory where it is there to be read and nobody records what is done with it:
also inside the forward and the backward pass of the one function that torch's graph knows
(`bnspec._torch.function`). Every other call goes the specification's way.
"""

from typing import Any

import numpy
import torch

from bnspec import BatchNormConfig, Gradients, Groups, Moments, Normalized, Params, RunningState, Saved
from bnspec._gradients import parameter_gradients
from bnspec._modes import in_graph, readable
from bnspec_backends.cpu import operations
from bnspec_backends.cpu.compiled_kernels import CompiledKernels
from bnspec_backends.plain_calls import is_plain, is_plain_gradient
from bnspec_backends.torch_kernels import TorchKernels

__all__ = ["TorchCpuKernels"]

_COMPILED = CompiledKernels()


class TorchCpuKernels(TorchKernels):
    """Kernels for tensors on the CPU, over those for NumPy arrays."""

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        if not _may_read(x, mask):
            return super().moments(x, groups, mask)
        return Moments(*map(_tensor, _COMPILED.moments(_array(x), groups, _array(mask))))

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        if not _may_read(x, centre, scale, shift):
            return super().normalize(x, centre, scale, shift, groups)
        return _tensor(_COMPILED.normalize(_array(x), _array(centre), _array(scale), _array(shift), groups))

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        if not _may_read(dy, x, centre, mask):
            return super().grad_sums(dy, x, centre, groups, mask)
        s1, s2 = _COMPILED.grad_sums(_array(dy), _array(x), _array(centre), groups, _array(mask))
        return _tensor(s1), _tensor(s2)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        if not _may_read(dy, x, centre, a, b, c, mask):
            return super().grad_input(dy, x, centre, a, b, c, groups, mask)
        return _tensor(
            _COMPILED.grad_input(
                _array(dy), _array(x), _array(centre), _array(a), _array(b), _array(c), groups, _array(mask)
            )
        )

    def _forward(
        self, x: Any, params: Params, config: BatchNormConfig, groups: Groups, **more: Any
    ) -> tuple[Moments, Normalized]:
        if not is_plain(config, **more) or not _may_read(x, *params) or not operations.serves(_array(x)):
            return super()._forward(x, params, config, groups, **more)
        gamma, beta = map(_array, params)
        stats, inverse, y = operations.forward(_array(x), gamma, beta, config.epsilon, groups)
        count, mean, low, m2 = map(_tensor, stats)
        inverse = _tensor(inverse)
        return Moments(count, mean, low, m2), Normalized(_tensor(y), mean, low, inverse, count.to(inverse.dtype))

    def pull_back(self, dy: Any, saved: Saved, **more: Any) -> Gradients:
        arrays = (saved.x, saved.gamma, saved.centre, saved.centre_low, saved.inverse_stddev, saved.divisor)
        plain = is_plain_gradient(saved, **more) and _may_read(dy, *arrays)
        if not plain or not operations.serves(_array(saved.x), _array(dy)):
            return super().pull_back(dy, saved, **more)
        x, gamma, centre, low, inverse, divisor = map(_array, arrays)
        found = operations.pull_back(_array(dy), x, gamma, centre, low, inverse, divisor, saved.static.groups)
        in_numpy = saved._replace(x=x, gamma=gamma, beta=_array(saved.beta), inverse_stddev=inverse)
        dgamma, dbeta = parameter_gradients(found[0], found[1], in_numpy)
        return Gradients(*(None if v is None else _tensor(v) for v in (found[2], dgamma, dbeta)))

    def _infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if not _may_read(x, *params, mean, var) or not operations.serves(_array(x)):
            return super()._infer(x, params, mean, var, epsilon, groups)
        gamma, beta = map(_array, params)
        found = operations.infer(_array(x), gamma, beta, _array(mean), _array(var), epsilon, groups)
        mean, low, inverse, y = map(_tensor, found)
        return Normalized(y, mean, low, inverse)

    def update(
        self, state: RunningState, stats: Moments, config: BatchNormConfig, *, name: str = "batch_norm"
    ) -> RunningState:
        new = None
        if readable(*state, *stats):
            new = operations.update(RunningState(*map(_array, state)), Moments(*map(_array, stats)), config)
        if new is None:
            return super().update(state, stats, config, name=name)
        return RunningState(*(None if v is None else _tensor(v) for v in new))

    def merge(self, a: Any, b: Any, added: int) -> Any:
        if not _may_read(a, b) or not operations.merges(_array(a), _array(b)):
            return super().merge(a, b, added)
        return _tensor(operations.merge(_array(a), _array(b), added))


def _may_read(*tensors: Any) -> bool:
    """Return whether the memory of tensors may be read and nobody wants a gradient of what is done with it."""
    return readable(*tensors) and not in_graph(*tensors)


def _array(v: Any) -> Any:
    """Return a tensor's memory as an array of NumPy."""
    if v is None:
        return None
    if v.requires_grad:
        v = v.detach()
    if v.dtype == torch.bfloat16:
        import ml_dtypes

        return v.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return v.numpy()


def _tensor(v: Any) -> Any:
    """Return an array's memory as a tensor."""
    if v.dtype.kind == "V":  # ml_dtypes' bfloat16; to ask for its name takes longer than the rest
        return torch.from_numpy(v.view(numpy.uint16)).view(torch.bfloat16)
    return torch.from_numpy(v)
