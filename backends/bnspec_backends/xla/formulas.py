"""Operations on all elements of a JAX array as formulas, on sums in levels.

Each is a program, which XLA compiles as a whole, and which is traced once for each shape however many layers there are.
Where an array comes twice, it is x itself, and x in the arithmetic dtype, of which derivatives are taken. A centre and
its unit are constants to every derivative.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from bnspec import Groups
from bnspec._dtypes import arithmetic_dtype, count_dtype
from bnspec._groups import reduced_axes, split, unsplit
from bnspec._masks import expand_mask, one_count
from bnspec._sharding import sharding_of
from bnspec_backends.xla import statistics
from bnspec_backends.xla.levels import spread, total
from bnspec_backends.xla.once import once

__all__ = [
    "affine", "axes_of", "combination", "count_of", "deviations", "distance", "fits", "grouped", "measured", "reshaped",
    "rows", "spread_over", "summed", "sums", "wide",
]  # fmt: skip


@jax.jit
def affine(v: Any, x: Any, centre: Any, unit: Any, scale: Any, shift: Any, groups: Groups) -> Any:
    """Return ``(v - centre)*unit*scale + shift`` in x's dtype; v is x widened. unit and shift may be absent."""
    y = distance(v, centre, unit, groups) * spread_over(scale, x, groups)
    y = y if shift is None else y + spread_over(shift, x, groups)
    return unsplit(y.astype(x.dtype), x)


@jax.jit
def sums(dy: Any, x: Any, centre: Any, mask: Any, groups: Groups) -> tuple[Any, Any]:
    """Return ``sum dy`` and ``sum dy*(x - centre)``."""
    return summed(dy, x, centre, None, mask, groups)


def summed(dy: Any, x: Any, centre: Any, unit: Any, mask: Any, groups: Groups) -> tuple[Any, Any]:
    """Return what `sums` does, the second sum in units."""
    g = wide(dy, groups)
    product = g * distance(x, centre, unit, groups)
    if mask is not None:
        keep = grouped(expand_mask(mask, x, groups), groups)
        g, product = (jnp.where(keep, each, jnp.zeros_like(each)) for each in (g, product))
    s1, s2 = (rows(total(each, axes_of(x, groups)), groups) for each in (g, product))
    return s1, s2


@jax.jit
def combination(dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, mask: Any, groups: Groups) -> Any:
    """Return ``a*dy + m*(b*(x - centre) + c)`` in x's dtype."""
    v = distance(x, centre, None, groups)
    statistics = v * spread_over(b, x, groups) + spread_over(once(c, centre), x, groups)
    if mask is not None:
        keep = grouped(expand_mask(mask, x, groups), groups)
        statistics = jnp.where(keep, statistics, jnp.zeros_like(statistics))
    dx = wide(dy, groups) * spread_over(a, x, groups) + statistics
    return unsplit(dx.astype(x.dtype), x)


@jax.jit
def deviations(v: Any, x: Any, mask: Any, groups: Groups) -> tuple[Any, statistics.Deviations]:
    """Return how many elements count, in the shape of `Moments`, and their deviations as (G, C) arrays."""
    if mask is None:
        return count_of(x, groups), measured(v, x, groups)
    v, axes = wide(v, groups), axes_of(x, groups)
    keep = grouped(expand_mask(mask, x, groups), groups)
    count = rows(keep.astype(count_dtype(jnp)).sum(axis=axes, keepdims=True), groups)  # (G, 1) or (G, C)
    n = reshaped(jnp.maximum(count, 1).astype(v.dtype), x, groups)
    found = statistics.deviations(v, keep, n, axes, fits=fits(x))
    count = count[:, 0] if one_count(mask, groups) else count
    return count, statistics.Deviations(*(rows(each, groups) for each in found))


def count_of(x: Any, groups: Groups) -> Any:
    """Return how many elements each group has, in the shape of `Moments`."""
    shape = grouped(x, groups).shape
    return jnp.full((groups.number,), math.prod(shape[a] for a in axes_of(x, groups)), count_dtype(jnp))


def measured(v: Any, x: Any, groups: Groups) -> statistics.Deviations:
    """Return the deviations of all elements as (G, C) arrays."""
    v, axes = wide(v, groups), axes_of(x, groups)
    n = jnp.asarray(math.prod(v.shape[a] for a in axes), v.dtype)
    found = statistics.deviations(v, None, n, axes, fits=fits(x))
    return statistics.Deviations(*(rows(each, groups) for each in found))


def fits(x: Any) -> bool:
    """Return whether the square of a difference of x's elements is within the range of the arithmetic dtype."""
    return bool(2 * jnp.finfo(x.dtype).maxexp < jnp.finfo(arithmetic_dtype(x)).maxexp)


def distance(v: Any, centre: Any, unit: Any, groups: Groups) -> Any:
    """Return ``(v - centre)*unit`` by groups, in the arithmetic dtype."""
    difference, still = wide(v, groups), reshaped(centre, v, groups)
    if unit is None:
        return difference - still
    unit = reshaped(unit, v, groups)
    return difference * unit - still * unit  # powers of two, so this rounds once; the difference itself may overflow


def grouped(x: Any, groups: Groups) -> Any:
    """Return x by groups; a single group gets no axis of its own, which would only hide from XLA what is the same."""
    return x if groups.number == 1 else split(x, groups)


def axes_of(x: Any, groups: Groups) -> tuple[int, ...]:
    """Return the axes of `grouped` that a statistic sums over."""
    axes = reduced_axes(x, groups)
    return tuple(a - 1 for a in axes) if groups.number == 1 else axes


def wide(x: Any, groups: Groups) -> Any:
    """Return x by groups, in the arithmetic dtype."""
    return grouped(x, groups).astype(arithmetic_dtype(x))


def rows(v: Any, groups: Groups) -> Any:
    """Return values of length 1 along the axes of a sum as (G, C)."""
    return v.reshape(groups.number, v.shape[groups.axis if groups.number == 1 else groups.axis + 1])


def reshaped(v: Any, x: Any, groups: Groups) -> Any:
    """Return (G, C) values so that they broadcast against `grouped`; JAX's own transpose of that is one long sum."""
    shape = [1] * (x.ndim + 1)
    shape[0], shape[groups.axis + 1] = v.shape
    return v.reshape(shape[1:] if groups.number == 1 else shape)


def spread_over(v: Any, x: Any, groups: Groups) -> Any:
    """Broadcast (G, C) values to the shape of `grouped`, so that the transpose is a sum in levels."""
    whole = grouped(x, groups)
    return spread(reshaped(v, x, groups), whole.shape, axes_of(x, groups), sharding_of(whole))
