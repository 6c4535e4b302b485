"""Kernels for torch tensors on the CPU: compiled, without a copy and without losing torch's own differentiation.

The kernels read and write the tensors' memory where it is there to be read and nobody records what is done with it:
also inside the forward and the backward pass of the one function that torch's graph knows
(`bnspec._torch.function`). Every other call goes the specification's way.
"""

from typing import Any

from bnspec import BatchNormConfig, Gradients, Groups, Moments, Normalized, Params, RunningState, Saved
from bnspec._modes import in_graph, readable
from bnspec_backends.cpu import operations, state_operations, torch_calls
from bnspec_backends.cpu.compiled_kernels import CompiledKernels
from bnspec_backends.cpu.torch_memory import array_of, tensor_of
from bnspec_backends.plain_calls import is_plain, is_plain_frozen, is_plain_gradient
from bnspec_backends.torch_kernels import TorchKernels

__all__ = ["TorchCpuKernels"]

_COMPILED = CompiledKernels()


class TorchCpuKernels(TorchKernels):
    """Kernels for tensors on the CPU, over those for NumPy arrays."""

    _whole_calls = torch_calls

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        if not _may_read(x, mask):
            return super().moments(x, groups, mask)
        return Moments(*map(tensor_of, _COMPILED.moments(array_of(x), groups, array_of(mask))))

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        if not _may_read(x, centre, scale, shift):
            return super().normalize(x, centre, scale, shift, groups)
        return tensor_of(_COMPILED.normalize(array_of(x), array_of(centre), array_of(scale), array_of(shift), groups))

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        if not _may_read(dy, x, centre, mask):
            return super().grad_sums(dy, x, centre, groups, mask)
        s1, s2 = _COMPILED.grad_sums(array_of(dy), array_of(x), array_of(centre), groups, array_of(mask))
        return tensor_of(s1), tensor_of(s2)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        if not _may_read(dy, x, centre, a, b, c, mask):
            return super().grad_input(dy, x, centre, a, b, c, groups, mask)
        dy, x, centre, a, b, c, mask = map(array_of, (dy, x, centre, a, b, c, mask))
        return tensor_of(_COMPILED.grad_input(dy, x, centre, a, b, c, groups, mask))

    def _forward(
        self, x: Any, params: Params, config: BatchNormConfig, groups: Groups, **more: Any
    ) -> tuple[Moments, Normalized]:
        if not is_plain(config, **more) or not _may_read(x, *params) or not operations.serves(array_of(x)):
            return super()._forward(x, params, config, groups, **more)
        gamma, beta = map(array_of, params)
        stats, inverse, y = operations.forward(array_of(x), gamma, beta, config.epsilon, groups)
        count, mean, low, m2 = map(tensor_of, stats)
        inverse = tensor_of(inverse)
        return Moments(count, mean, low, m2), Normalized(tensor_of(y), mean, low, inverse, count.to(inverse.dtype))

    def pull_back(self, dy: Any, saved: Saved, **more: Any) -> Gradients:
        arrays = (saved.x, saved.gamma, saved.centre, saved.centre_low, saved.inverse_stddev, saved.divisor)
        plain = is_plain_frozen(saved, dy) or is_plain_gradient(saved, **more)
        if not plain or not _may_read(dy, *arrays) or not operations.serves(array_of(saved.x), array_of(dy)):
            return super().pull_back(dy, saved, **more)
        found = _COMPILED.pull_back(array_of(dy), Saved._make((*map(array_of, saved[:-1]), saved.static)))
        return Gradients(*(None if v is None else tensor_of(v) for v in found))

    def _infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if not _may_read(x, *params, mean, var) or not operations.serves(array_of(x)):
            return super()._infer(x, params, mean, var, epsilon, groups)
        gamma, beta = map(array_of, params)
        found = operations.infer(array_of(x), gamma, beta, array_of(mean), array_of(var), epsilon, groups)
        mean, low, inverse, y = map(tensor_of, found)
        return Normalized(y, mean, low, inverse)

    def update(
        self, state: RunningState, stats: Moments, config: BatchNormConfig, *, name: str = "batch_norm"
    ) -> RunningState:
        new = None
        if readable(*state, *stats):
            new = state_operations.update(RunningState(*map(array_of, state)), Moments(*map(array_of, stats)), config)
        if new is None:
            return super().update(state, stats, config, name=name)
        return RunningState(*(None if v is None else tensor_of(v) for v in new))

    def merge(self, a: Any, b: Any, added: int) -> Any:
        if not _may_read(a, b) or not operations.merges(array_of(a), array_of(b)):
            return super().merge(a, b, added)
        return tensor_of(operations.merge(array_of(a), array_of(b), added))


def _may_read(*tensors: Any) -> bool:
    """Return whether the memory of tensors may be read and nobody wants a gradient of what is done with it."""
    return readable(*tensors) and not in_graph(*tensors)
