"""Eager calls as programs: one compiled by XLA for each operation, where JAX itself would compile each addition."""

import dataclasses
from typing import Any

import jax

from bnspec import BatchNormConfig, Communicator, Gradients, Groups, Moments, Normalized, Params, RunningState, Saved
from bnspec._arrays import jax_tracer
from bnspec_backends.xla.kernels import XLAKernels

__all__ = ["JaxKernels"]


class JaxKernels(XLAKernels):
    """Kernels of the backend "jax". Inside of `jax.jit` and other transformations they are `XLAKernels`.

    A call with a communicator is never compiled here, since what it sends leaves the program; nor is one with renorm,
    whose limits may be others at every call.
    """

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
        if comm is None and config.renorm is None and _eager(x, *params, mask):
            return _forward(x, params, config, groups, mask)
        return super().forward(x, params, config, groups, state=state, mask=mask, comm=comm, name=name)

    def pull_back(
        self, dy: Any, saved: Saved, *, comm: Communicator | None = None, dmean: Any = None, dvar: Any = None
    ) -> Gradients:
        if (comm is None or saved.frozen) and _eager(dy, *saved[:-1], dmean, dvar):  # frozen gradients send nothing
            static = dataclasses.replace(saved.static, name="batch_norm")  # not a program for each layer's name
            return _pull_back(dy, saved._replace(static=static), dmean, dvar)
        return super().pull_back(dy, saved, comm=comm, dmean=dmean, dvar=dvar)

    def infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if _eager(x, *params, mean, var):
            return _infer(x, params, mean, var, groups, epsilon)
        return super().infer(x, params, mean, var, epsilon, groups)


_KERNELS = XLAKernels()


@jax.jit
def _forward(x: Any, params: Params, config: BatchNormConfig, groups: Groups, mask: Any) -> tuple[Moments, Normalized]:
    return _KERNELS.forward(x, params, config, groups, mask=mask)


@jax.jit
def _pull_back(dy: Any, saved: Saved, dmean: Any, dvar: Any) -> Gradients:
    return _KERNELS.pull_back(dy, saved, dmean=dmean, dvar=dvar)


def _infer_by(x: Any, params: Params, mean: Any, var: Any, groups: Groups, epsilon: float) -> Normalized:
    return _KERNELS.infer(x, params, mean, var, epsilon, groups)


_infer = jax.jit(_infer_by, static_argnames="epsilon")


def _eager(*arrays: Any) -> bool:
    tracer = jax_tracer()
    return not any(isinstance(v, tracer) for v in arrays)
