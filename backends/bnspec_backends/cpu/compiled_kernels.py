"""Kernels for NumPy arrays on compiled loops; what they do not serve goes to the blocked ones, or the specification."""

from typing import Any

from bnspec import BatchNormConfig, Gradients, Groups, Moments, Normalized, Params, RunningState, Saved
from bnspec._gradients import parameter_gradients
from bnspec._masks import one_count
from bnspec_backends.cpu import operations, state_operations
from bnspec_backends.cpu.blocked import BlockedKernels
from bnspec_backends.plain_calls import is_plain, is_plain_frozen, is_plain_gradient

__all__ = ["CompiledKernels"]


class CompiledKernels(BlockedKernels):
    """Kernels that do both passes over a channel while it is in cache.

    Not served are arrays without elements, and float16 on processors that do not convert it.
    """

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        if not one_count(mask, groups) or not operations.serves(x):
            return super().moments(x, groups, mask)
        return operations.moments(x, groups, mask)

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        if not operations.serves(x):
            return super().normalize(x, centre, scale, shift, groups)
        return operations.normalize(x, centre, scale, shift, groups)

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        if not operations.serves(x, dy):
            return super().grad_sums(dy, x, centre, groups, mask)
        return operations.grad_sums(dy, x, centre, groups, mask)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        if not operations.serves(x, dy):
            return super().grad_input(dy, x, centre, a, b, c, groups, mask)
        return operations.grad_input(dy, x, centre, a, b, c, groups, mask)

    def forward(
        self, x: Any, params: Params, config: BatchNormConfig, groups: Groups, **more: Any
    ) -> tuple[Moments, Normalized]:
        if not is_plain(config, **more) or not operations.serves(x):
            return super().forward(x, params, config, groups, **more)
        stats, inverse, y = operations.forward(x, *params, config.epsilon, groups)
        return stats, Normalized(y, stats.mean, stats.mean_low, inverse, stats.count.astype(inverse.dtype))

    def pull_back(self, dy: Any, saved: Saved, **more: Any) -> Gradients:
        if is_plain_frozen(saved, dy) and operations.serves(saved.x):
            frozen = (saved.centre, saved.centre_low, saved.inverse_stddev)
            s1, s2, dx = operations.pull_back_frozen(dy, saved.x, saved.gamma, *frozen, saved.static.groups)
            return Gradients(dx, *parameter_gradients(s1, s2, saved))
        if not is_plain_gradient(saved, **more) or not operations.serves(saved.x, dy):
            return super().pull_back(dy, saved, **more)
        statistics = (saved.centre, saved.centre_low, saved.inverse_stddev, saved.divisor)
        s1, s2, dx = operations.pull_back(dy, saved.x, saved.gamma, *statistics, saved.static.groups)
        return Gradients(dx, *parameter_gradients(s1, s2, saved))

    def infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if not operations.serves(x):
            return super().infer(x, params, mean, var, epsilon, groups)
        mean, low, inverse, y = operations.infer(x, *params, mean, var, epsilon, groups)
        return Normalized(y, mean, low, inverse)

    def update(
        self, state: RunningState, stats: Moments, config: BatchNormConfig, *, name: str = "batch_norm"
    ) -> RunningState:
        new = state_operations.update(state, stats, config)
        return super().update(state, stats, config, name=name) if new is None else new

    def merge(self, a: Any, b: Any, added: int) -> Any:
        return operations.merge(a, b, added) if operations.merges(a, b) else super().merge(a, b, added)
