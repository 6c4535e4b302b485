"""Kernels for JAX arrays: the specification's formulas on sums in levels, with the derivatives of sums as rules.

JAX differentiates the formulas on (G, C) numbers, and nothing else: statistics have a rule (`statistics`), and what is
broadcast to x's shape is summed, where JAX transposes it, in levels (`levels`). A centre is a constant in
``x - centre`` and moves the shift instead; so one sum over ``dy*(x - centre)`` and one over dy serve every derivative.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from bnspec import BatchNormConfig, Communicator, Groups, Kernels, Moments, Normalized, Params, RunningState
from bnspec._dtypes import arithmetic_dtype
from bnspec._groups import holds_nothing
from bnspec._kernels import widened
from bnspec._normalize import factor, inverse_stddev, row, scale_and_shift
from bnspec._renorm import corrections
from bnspec._types import per_channel
from bnspec_backends.xla import formulas
from bnspec_backends.xla.following import following
from bnspec_backends.xla.once import once
from bnspec_backends.xla.statistics import Deviations

__all__ = ["JaxKernels", "Operations"]


class Operations(Protocol):
    """Operations on all elements of x, as the functions of `formulas` are."""

    def affine(self, v: Any, x: Any, centre: Any, unit: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        """Return ``(v - centre)*unit*scale + shift`` in x's dtype."""
        ...

    def sums(self, dy: Any, x: Any, centre: Any, mask: Any, groups: Groups) -> tuple[Any, Any]:
        """Return ``sum dy`` and ``sum dy*(x - centre)``."""
        ...

    def deviations(self, v: Any, x: Any, mask: Any, groups: Groups) -> tuple[Any, Deviations]:
        """Return how many elements count, and their deviations."""
        ...


class JaxKernels(Kernels):
    """Kernels for every JAX array, eager or traced, on any device and however it is spread over devices.

    Each operation on all elements of x is a program, which XLA compiles as a whole, and which is traced once for each
    shape however many layers there are. The arithmetic on (G, C) numbers stays outside: in one program XLA joins
    multiplications and additions as it sees fit, and bits that are to be equal by formula would not be.

    Parameters
    ----------
    operations : Operations
        By default formulas alone.
    """

    def __init__(self, operations: Operations = formulas) -> None:
        self._operations = operations

    def differentiable(self, *, plain_sums: bool) -> Kernels:
        return self

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        if holds_nothing(x, groups):
            return super().moments(x, groups, mask)
        return _moments_of(*self._operations.deviations(x, x, mask, groups))

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        still = stop_gradient(centre)
        shift = once(following(shift, centre, -scale), still)
        return self._operations.affine(x, x, still, None, scale, shift, groups)

    def infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if holds_nothing(x, groups):
            return super().infer(x, params, mean, var, epsilon, groups)
        # A running mean is one number, so that no rest of it is to be corrected: XLA would do that for each element.
        mean, var = (v.astype(arithmetic_dtype(x))[None, :] for v in (mean, var))
        inverse = inverse_stddev(var, epsilon)
        shift = None if params.beta is None else row(params.beta, inverse)
        y = self._operations.affine(x, x, mean, None, factor(params.gamma, None, inverse), shift, groups)
        return Normalized(y, mean, jnp.zeros_like(mean), inverse)

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        still = stop_gradient(centre)
        s1, s2 = self._operations.sums(dy, x, still, mask, groups)
        return s1, following(s2, centre, -s1)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        still = stop_gradient(centre)
        return formulas.combination(dy, x, still, a, b, following(c, centre, -b), mask, groups)

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
        if mask is not None or comm is not None or holds_nothing(x, groups):
            return super().forward(x, params, config, groups, state=state, mask=mask, comm=comm, name=name)
        _, (wide,), used = widened(self, (x,), *params)
        count, found = self._operations.deviations(wide, x, None, groups)
        stats, divisor = _moments_of(count, found), count.astype(found.m2.dtype)
        r = d = None
        if config.renorm is not None:
            assert state is not None
            r, d = corrections(stats, state, config)
        high, low, m2, unit = found
        still = stop_gradient(high)
        # In units in which no square overflows, until y itself.
        inverse = 1.0 / jnp.sqrt(m2 / per_channel(divisor) + (config.epsilon * unit) * unit)
        scale, shift = scale_and_shift(Params(*used), inverse, following(low, high, unit), r, d)
        y = self._operations.affine(wide, x, still, stop_gradient(unit), scale, once(shift, still), groups)
        return stats, Normalized(y, stats.mean, stats.mean_low, inverse * unit, divisor, r, d)


def _moments_of(count: Any, found: Deviations) -> Moments:
    # XLA takes a/u/u for a/(u*u), and u*u may underflow.
    m2 = jax.lax.optimization_barrier(found.m2 / found.unit) / found.unit
    return Moments(count, found.high, found.low / found.unit, m2)
