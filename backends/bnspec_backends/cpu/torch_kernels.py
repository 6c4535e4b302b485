"""Compiled kernels for torch tensors on the CPU, without a copy and without losing torch's own differentiation.

Where no gradient is asked for, the kernels read and write the tensors' memory. Where one is, the two fused passes
are one `autograd.Function`: its backward is the fused gradient, or, while a graph of the gradient itself is made,
torch's differentiation of the specification's formulas. What cannot be fused and needs a gradient (masks,
renorm) goes the specification's way throughout, as does every tensor whose memory is not there to be read.
"""

from typing import Any

import numpy
import torch

from bnspec import SpecificationKernels
from bnspec._config import BatchNormConfig
from bnspec._gradients import input_coefficients, parameter_gradients
from bnspec._modes import readable
from bnspec._normalize import inverse_stddev, scale_and_shift
from bnspec._types import Groups, Moments, Params, RunningState, Saved, Static
from bnspec._widening import narrowed, widened

__all__ = ["TorchCpuKernels"]


class TorchCpuKernels:
    """Kernels of `bnspec._protocols.FusedKernels` over those for NumPy arrays.

    Parameters
    ----------
    kernels : CompiledKernels
        For NumPy arrays.
    """

    def __init__(self, kernels: Any) -> None:
        self._plain = self.differentiable = SpecificationKernels()
        self._kernels = kernels

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        """Primitive 1."""
        if not readable(x, mask) or _differentiated(x):
            return self._plain.moments(x, groups, mask)
        return Moments(*map(_tensor, self._kernels.moments(_array(x), groups, _array(mask))))

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        """Primitive 2."""
        given = (x, centre, scale, shift)
        if not readable(*given) or _differentiated(*given):
            return self._plain.normalize(*given, groups)
        return _tensor(self._kernels.normalize(*map(_array, given), groups))

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        """Primitive 3."""
        given = (dy, x, centre)
        if not readable(*given, mask) or _differentiated(*given):
            return self._plain.grad_sums(*given, groups, mask)
        s1, s2 = self._kernels.grad_sums(*map(_array, given), groups, _array(mask))
        return _tensor(s1), _tensor(s2)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        """Primitive 4."""
        given = (dy, x, centre, a, b, c)
        if not readable(*given, mask) or _differentiated(*given):
            return self._plain.grad_input(*given, groups, mask)
        return _tensor(self._kernels.grad_input(*map(_array, given), groups, _array(mask)))

    def normalize_by_batch(self, x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups) -> Any:
        """Both passes of the forward operation; None for tensors that are not served."""
        if not readable(x, gamma, beta):
            return None
        if not _differentiated(x, gamma, beta):
            found = self._kernels.normalize_by_batch(*map(_array, (x, gamma, beta)), epsilon, groups)
            return None if found is None else (Moments(*map(_tensor, found[0])), *map(_tensor, found[1:]))
        count, mean, low, m2, inverse, y = _ByBatch.apply(  # type: ignore[no-untyped-call]
            x, gamma, beta, epsilon, groups, self
        )
        return Moments(count, mean, low, m2), inverse, y

    def pull_back(
        self, dy: Any, x: Any, gamma: Any, centre: Any, centre_low: Any, inverse: Any, divisor: Any, groups: Groups
    ) -> Any:
        """Both passes of the gradient; None for tensors that are not served, or while a graph is being made."""
        given = (dy, x, gamma, centre, centre_low, inverse, divisor)
        if not readable(*given) or _differentiated(*given):
            return None
        found = self._kernels.pull_back(*map(_array, given), groups)
        return None if found is None else tuple(map(_tensor, found))

    def normalize_by_running(
        self, x: Any, gamma: Any, beta: Any, mean: Any, var: Any, epsilon: float, groups: Groups
    ) -> Any:
        """Inference; None where torch records it."""
        given = (x, gamma, beta, mean, var)
        if not readable(*given) or _differentiated(*given):
            return None
        found = self._kernels.normalize_by_running(*map(_array, given), epsilon, groups)
        return None if found is None else tuple(map(_tensor, found))

    def update(self, state: RunningState, stats: Moments, config: BatchNormConfig) -> Any:
        """Average one batch into the state; None for what is rarer, or to be refused."""
        if not readable(*state, *stats):
            return None
        found = self._kernels.update(RunningState(*map(_array, state)), Moments(*map(_array, stats)), config)
        return None if found is None else RunningState(*(None if v is None else _tensor(v) for v in found))

    def merge(self, a: Any, b: Any, added: int) -> Any:
        """Join two sets' moments, as rows."""
        if not readable(a, b) or _differentiated(a, b):
            return None
        found = self._kernels.merge(_array(a), _array(b), added)
        return None if found is None else _tensor(found)

    def by_primitives(self, x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups) -> tuple[Moments, Any, Any]:
        """Return what `normalize_by_batch` returns, by the primitives."""
        kernels, (wide,), used = widened(self, (x,), gamma, beta)
        stats = kernels.moments(wide, groups, None)
        inverse = inverse_stddev(stats.var, epsilon)
        scale, shift = scale_and_shift(Params(*used), inverse, stats.mean_low, None, None)
        return stats, inverse, narrowed(kernels.normalize(wide, stats.mean, scale, shift, groups), x)


class _ByBatch(torch.autograd.Function):
    """x, gamma, beta to count, mean, its low part, m2, 1/sqrt(var + epsilon) and y."""

    @staticmethod
    def forward(ctx: Any, x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups, owner: TorchCpuKernels) -> Any:
        given = (x, gamma, beta, epsilon, groups)
        stats, inverse, y = owner.normalize_by_batch(*given) or owner.by_primitives(*given)
        ctx.save_for_backward(x, gamma, beta, stats.mean, stats.mean_low, inverse)
        ctx.about = (epsilon, groups, owner, stats.count.to(torch.float64))
        ctx.mark_non_differentiable(stats.count, stats.mean_low)
        ctx.set_materialize_grads(False)
        return *stats, inverse, y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        _, gmean, _, gm2, ginverse, g = grads
        x, gamma, beta, mean, low, inverse = ctx.saved_tensors
        epsilon, groups, owner, count = ctx.about
        given = (gmean, gm2, ginverse, g)
        if torch.is_grad_enabled():  # the gradient is to be differentiated in its turn
            stats, again, y = owner.by_primitives(x, gamma, beta, epsilon, groups)
            pairs = [(v, d) for v, d in zip((stats.mean, stats.m2, again, y), given, strict=True) if d is not None]
            wanted = [v for v, needed in zip((x, gamma, beta), ctx.needs_input_grad, strict=False) if needed]
            outputs, directions = zip(*pairs, strict=True)
            found = iter(torch.autograd.grad(outputs, wanted, directions, create_graph=True, allow_unused=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None

        g = torch.zeros_like(x) if g is None else g
        saved = Saved(x, None, gamma, beta, mean, low, inverse, count, None, None, Static(groups, None, ""))
        fused = None
        if gmean is None and gm2 is None and ginverse is None:
            fused = owner.pull_back(g, x, gamma, mean, low, inverse, count, groups)
        if fused is not None:
            s1, s2, dx = fused
        else:
            n = count[:, None]
            dvar = None if gm2 is None else gm2 * n
            if ginverse is not None:  # inverse = (var + epsilon)**(-1/2)
                own = -0.5 * ginverse * inverse**3
                dvar = own if dvar is None else dvar + own
            s1, s2 = owner.grad_sums(g, x, mean, groups, None)
            s2 = s2 - low * s1
            a, b, c = input_coefficients(s1, s2, gmean, dvar, saved)
            dx = owner.grad_input(g, x, mean, a, b, c - b * low, groups, None)
        return dx, *parameter_gradients(s1, s2, saved), None, None, None


def _differentiated(*tensors: Any) -> bool:
    """Whether torch records what is done with one of them."""
    return torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in tensors)


def _array(v: Any) -> Any:
    """Return a tensor's memory as an array of NumPy."""
    if v is None:
        return None
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
