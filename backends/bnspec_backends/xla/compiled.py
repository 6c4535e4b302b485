"""Operations as programs: one that XLA compiles for each, where an eager JAX would compile each addition.

Inside of other programs they are functions of these, traced once for each shape however many layers there are.
"""

import dataclasses
from typing import Any

import jax

from bnspec import BatchNormConfig, Communicator, Gradients, Groups, Moments, Normalized, Params, RunningState, Saved
from bnspec_backends.xla.kernels import XLAKernels

__all__ = ["JaxKernels"]


class JaxKernels(XLAKernels):
    """Kernels of the backend "jax".

    With a communicator only the primitives are programs, since what it sends leaves them; so they are with renorm,
    whose limits may be others at every call.
    """

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        return _moments(x, mask, groups)

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        return _normalize(x, centre, scale, shift, groups)

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        return _grad_sums(dy, x, centre, mask, groups)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        return _grad_input(dy, x, centre, a, b, c, mask, groups)

    def forward(
        self,
        x: Any,
        params: Params,
        config: BatchNormConfig,
        groups: Groups,
        *,
        state: RunningState | None = None,
        mask: Any = None,
        comm: Communicator | None = None,
        name: str = "batch_norm",
    ) -> tuple[Moments, Normalized]:
        if comm is None and config.renorm is None:
            return _forward(x, params, mask, config, groups)
        return super().forward(x, params, config, groups, state=state, mask=mask, comm=comm, name=name)

    def pull_back(
        self, dy: Any, saved: Saved, *, comm: Communicator | None = None, dmean: Any = None, dvar: Any = None
    ) -> Gradients:
        if comm is None or saved.frozen:  # frozen gradients send nothing
            static = dataclasses.replace(saved.static, name="batch_norm")  # not a program for each layer's name
            return _pull_back(dy, saved._replace(static=static), dmean, dvar)
        return super().pull_back(dy, saved, comm=comm, dmean=dmean, dvar=dvar)

    def infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        return _infer(x, params, mean, var, groups, epsilon)


_KERNELS = XLAKernels()


@jax.jit
def _moments(x: Any, mask: Any, groups: Groups) -> Moments:
    return _KERNELS.moments(x, groups, mask)


@jax.jit
def _normalize(x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
    return _KERNELS.normalize(x, centre, scale, shift, groups)


@jax.jit
def _grad_sums(dy: Any, x: Any, centre: Any, mask: Any, groups: Groups) -> tuple[Any, Any]:
    return _KERNELS.grad_sums(dy, x, centre, groups, mask)


@jax.jit
def _grad_input(dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, mask: Any, groups: Groups) -> Any:
    return _KERNELS.grad_input(dy, x, centre, a, b, c, groups, mask)


@jax.jit
def _forward(x: Any, params: Params, mask: Any, config: BatchNormConfig, groups: Groups) -> tuple[Moments, Normalized]:
    return _KERNELS.forward(x, params, config, groups, mask=mask)


@jax.jit
def _pull_back(dy: Any, saved: Saved, dmean: Any, dvar: Any) -> Gradients:
    return _KERNELS.pull_back(dy, saved, dmean=dmean, dvar=dvar)


def _infer_by(x: Any, params: Params, mean: Any, var: Any, groups: Groups, epsilon: float) -> Normalized:
    return _KERNELS.infer(x, params, mean, var, epsilon, groups)


_infer = jax.jit(_infer_by, static_argnames="epsilon")
