"""Kernels for CuPy arrays on a CUDA device: two launches forward, two backward, one for inference, one for the state.

Arrays without elements, or with 2^31 of one channel, go the specification's way, and are counted; so are updates of the
running state that need a value of the device, or are rare.
"""

from typing import Any

from bnspec import BatchNormConfig, Gradients, Groups, Kernels, Moments, Normalized, Params, RunningState, Saved
from bnspec._gradients import parameter_gradients
from bnspec_backends.cuda import operations, running_state
from bnspec_backends.cuda.counters import counters
from bnspec_backends.plain_calls import is_plain, is_plain_gradient

__all__ = ["CudaKernels"]


class CudaKernels(Kernels):
    """Kernels whose work is queued on the current stream; the host waits for none of it."""

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        if not _serves("moments", groups, x):
            return super().moments(x, groups, mask)
        return operations.moments(x, groups, mask)

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        if not _serves("normalize", groups, x):
            return super().normalize(x, centre, scale, shift, groups)
        return operations.normalize(x, centre, scale, shift, groups)

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        if not _serves("grad_sums", groups, x, dy):
            return super().grad_sums(dy, x, centre, groups, mask)
        return operations.grad_sums(dy, x, centre, groups, mask)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        if not _serves("grad_input", groups, x, dy):
            return super().grad_input(dy, x, centre, a, b, c, groups, mask)
        return operations.grad_input(dy, x, centre, a, b, c, groups, mask)

    def forward(
        self, x: Any, params: Params, config: BatchNormConfig, groups: Groups, **more: Any
    ) -> tuple[Moments, Normalized]:
        if not is_plain(config, masks=True, **more) or not operations.serves(groups, x, *params):
            return super().forward(x, params, config, groups, **more)
        stats, inverse, divisor, y = operations.forward(x, *params, config.epsilon, groups, more.get("mask"))
        return stats, Normalized(y, stats.mean, stats.mean_low, inverse, divisor)

    def pull_back(self, dy: Any, saved: Saved, **more: Any) -> Gradients:
        groups, arrays = saved.static.groups, (saved.x, dy, saved.gamma, saved.beta)
        if not is_plain_gradient(saved, masks=True, **more) or not operations.serves(groups, *arrays):
            return super().pull_back(dy, saved, **more)
        statistics = (saved.centre, saved.centre_low, saved.inverse_stddev, saved.divisor)
        given = (dy, saved.x, saved.gamma, saved.beta, *statistics)
        s1, s2, dx, dgamma, dbeta = operations.pull_back(*given, groups, saved.mask)
        if groups.number > 1:
            dgamma, dbeta = parameter_gradients(s1, s2, saved)
        return Gradients(dx, dgamma, dbeta)

    def infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if not _serves("infer", groups, x, *params, mean, var):
            return super().infer(x, params, mean, var, epsilon, groups)
        mean, low, inverse, y = operations.infer(x, *params, mean, var, epsilon, groups)
        return Normalized(y, mean, low, inverse)

    def update(
        self, state: RunningState, stats: Moments, config: BatchNormConfig, *, name: str = "batch_norm"
    ) -> RunningState:
        if not running_state.serves(state, stats, config):
            counters.leave("update")
            return super().update(state, stats, config, name=name)
        return running_state.update(state, stats, config)


def _serves(what: str, groups: Groups, *arrays: Any) -> bool:
    """Return whether kernels take these arrays; count the call where they do not."""
    served = operations.serves(groups, *arrays)
    if not served:
        counters.leave(what)
    return served
