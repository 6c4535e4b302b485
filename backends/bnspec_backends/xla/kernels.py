"""Kernels for JAX arrays: the specification's formulas on sums in levels, with the derivatives of sums as rules.

JAX differentiates the formulas on (G, C) numbers, and nothing else: statistics have a rule (`statistics`), and what is
broadcast to x's shape is summed, where JAX transposes it, in levels (`levels`). A centre is a constant in
``x - centre`` and moves the shift instead; so one sum over ``dy*(x - centre)`` and one over dy serve every derivative.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from bnspec import BatchNormConfig, Communicator, Groups, Kernels, Moments, Normalized, Params, RunningState
from bnspec._dtypes import arithmetic_dtype, count_dtype
from bnspec._groups import holds_nothing, reduced_axes, split, unsplit
from bnspec._kernels import narrowed, widened
from bnspec._masks import expand_mask, one_count
from bnspec._normalize import factor, inverse_stddev, row, scale_and_shift
from bnspec._renorm import corrections
from bnspec._sharding import sharding_of
from bnspec._types import per_channel
from bnspec_backends.xla.levels import spread, total
from bnspec_backends.xla.once import once
from bnspec_backends.xla.statistics import Deviations, deviations

__all__ = ["JaxKernels"]


class JaxKernels(Kernels):
    """Kernels for every JAX array, eager or traced, on any device and however it is spread over devices.

    Each operation on all elements of x is a program, which XLA compiles as a whole, and which is traced once for each
    shape however many layers there are. The arithmetic on (G, C) numbers stays outside: in one program XLA joins
    multiplications and additions as it sees fit, and bits that are to be equal by formula would not be.
    """

    def differentiable(self, *, plain_sums: bool) -> Kernels:
        return self

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        if holds_nothing(x, groups):
            return super().moments(x, groups, mask)
        return _moments_of(*_deviations(x, mask, groups, fits=_fits(x)))

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        still = stop_gradient(centre)
        return _affine(x, still, None, scale, following(shift, centre, -scale), groups)

    def infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if holds_nothing(x, groups):
            return super().infer(x, params, mean, var, epsilon, groups)
        # A running mean is one number, so that no rest of it is to be corrected: XLA would do that for each element.
        mean, var = (v.astype(arithmetic_dtype(x))[None, :] for v in (mean, var))
        inverse = inverse_stddev(var, epsilon)
        shift = None if params.beta is None else row(params.beta, inverse)
        y = _affine(x, mean, None, factor(params.gamma, None, inverse), shift, groups)
        return Normalized(y, mean, jnp.zeros_like(mean), inverse)

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        still = stop_gradient(centre)
        s1, s2 = _sums(dy, x, still, mask, groups)
        return s1, following(s2, centre, -s1)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        still = stop_gradient(centre)
        return _combination(dy, x, still, a, b, following(c, centre, -b), mask, groups)

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
        count, found = _deviations(wide, None, groups, fits=_fits(x))
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
        y = narrowed(_affine(wide, still, unit, scale, shift, groups), x)
        return stats, Normalized(y, stats.mean, stats.mean_low, inverse * unit, divisor, r, d)


@jax.custom_jvp
def following(v: Any, centre: Any, factor: Any) -> Any:
    """Return ``v + (centre - stop_gradient(centre)) * factor``: v, which follows the centre in derivatives.

    XLA does not take ``centre - centre`` for 0, which it is not where the centre is infinite, and would compute it for
    each element of x.
    """
    return v


@following.defjvp
def _following_tangent(given: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    v, centre, factor = given
    dv, dcentre, dfactor = tangents
    # No custom rule on a tangent: where JAX transposes, it keeps none of it, and higher derivatives would miss a term.
    return following(v, centre, factor), dv + dcentre * factor + _nothing(centre) * dfactor


@jax.custom_jvp
def _nothing(centre: Any) -> Any:
    """Return ``centre - stop_gradient(centre)``."""
    return jnp.zeros_like(centre)


@_nothing.defjvp
def _nothing_tangent(given: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return _nothing(*given), tangents[0]


@jax.jit
def _affine(x: Any, centre: Any, unit: Any, scale: Any, shift: Any, groups: Groups) -> Any:
    """Return ``(x - centre)*unit*scale + shift`` in x's dtype; centre and unit are constants to every derivative.

    unit and shift may be absent.
    """
    v, still = _wide(x, groups), _reshaped(centre, x, groups)
    if unit is None:
        v = v - still
    else:
        unit = _reshaped(unit, x, groups)
        v = v * unit - still * unit  # powers of two, so this rounds once; the difference itself may overflow
    y = v * _spread(scale, x, groups)
    y = y if shift is None else y + _spread(once(shift, centre), x, groups)
    return unsplit(y.astype(x.dtype), x)


@jax.jit
def _sums(dy: Any, x: Any, centre: Any, mask: Any, groups: Groups) -> tuple[Any, Any]:
    """Return ``sum dy`` and ``sum dy*(x - centre)``."""
    g = _wide(dy, groups)
    product = g * (_wide(x, groups) - _reshaped(centre, x, groups))
    if mask is not None:
        keep = _grouped(expand_mask(mask, x, groups), groups)
        g, product = (jnp.where(keep, each, jnp.zeros_like(each)) for each in (g, product))
    s1, s2 = (_rows(total(each, _axes(x, groups)), groups) for each in (g, product))
    return s1, s2


@jax.jit
def _combination(dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, mask: Any, groups: Groups) -> Any:
    """Return ``a*dy + m*(b*(x - centre) + c)`` in x's dtype."""
    v = _wide(x, groups) - _reshaped(centre, x, groups)
    statistics = v * _spread(b, x, groups) + _spread(once(c, centre), x, groups)
    if mask is not None:
        keep = _grouped(expand_mask(mask, x, groups), groups)
        statistics = jnp.where(keep, statistics, jnp.zeros_like(statistics))
    dx = _wide(dy, groups) * _spread(a, x, groups) + statistics
    return unsplit(dx.astype(x.dtype), x)


@functools.partial(jax.jit, static_argnames="fits")
def _deviations(x: Any, mask: Any, groups: Groups, *, fits: bool) -> tuple[Any, Deviations]:
    """Return how many elements count, in the shape of `Moments`, and their deviations as (G, C) arrays."""
    v, axes = _wide(x, groups), _axes(x, groups)
    if mask is None:
        size, keep = math.prod(v.shape[a] for a in axes), None
        count, n = jnp.full((groups.number,), size, count_dtype(jnp)), jnp.asarray(size, v.dtype)
    else:
        keep = _grouped(expand_mask(mask, x, groups), groups)
        count = _rows(keep.astype(count_dtype(jnp)).sum(axis=axes, keepdims=True), groups)  # (G, 1) or (G, C)
        n = _reshaped(jnp.maximum(count, 1).astype(v.dtype), x, groups)
        count = count[:, 0] if one_count(mask, groups) else count
    found = deviations(v, keep, n, axes, fits=fits)
    return count, Deviations(*(_rows(each, groups) for each in found))


def _fits(x: Any) -> bool:
    """Return whether the square of a difference of x's elements is within the range of the arithmetic dtype."""
    return bool(2 * jnp.finfo(x.dtype).maxexp < jnp.finfo(arithmetic_dtype(x)).maxexp)


def _moments_of(count: Any, found: Deviations) -> Moments:
    # XLA takes a/u/u for a/(u*u), and u*u may underflow.
    m2 = jax.lax.optimization_barrier(found.m2 / found.unit) / found.unit
    return Moments(count, found.high, found.low / found.unit, m2)


def _grouped(x: Any, groups: Groups) -> Any:
    """Return x by groups; a single group gets no axis of its own, which would only hide from XLA what is the same."""
    return x if groups.number == 1 else split(x, groups)


def _axes(x: Any, groups: Groups) -> tuple[int, ...]:
    """Return the axes of `_grouped` that a statistic sums over."""
    axes = reduced_axes(x, groups)
    return tuple(a - 1 for a in axes) if groups.number == 1 else axes


def _wide(x: Any, groups: Groups) -> Any:
    """Return x by groups, in the arithmetic dtype."""
    return _grouped(x, groups).astype(arithmetic_dtype(x))


def _rows(v: Any, groups: Groups) -> Any:
    """Return values of length 1 along the axes of a sum as (G, C)."""
    return v.reshape(groups.number, v.shape[groups.axis if groups.number == 1 else groups.axis + 1])


def _reshaped(v: Any, x: Any, groups: Groups) -> Any:
    """Return (G, C) values so that they broadcast against `_grouped`; JAX's own transpose of that is one long sum."""
    shape = [1] * (x.ndim + 1)
    shape[0], shape[groups.axis + 1] = v.shape
    return v.reshape(shape[1:] if groups.number == 1 else shape)


def _spread(v: Any, x: Any, groups: Groups) -> Any:
    """Broadcast (G, C) values to the shape of `_grouped`, so that the transpose is a sum in levels."""
    whole = _grouped(x, groups)
    return spread(_reshaped(v, x, groups), whole.shape, _axes(x, groups), sharding_of(whole))
