"""Mean and squared deviations of JAX arrays, with the derivative rule of both.

Over the counted elements of a channel, with t a power of two and K one of the elements::

    high = K + sum(x*s - K*s)/n/s,    low = sum((x - high)*t)/n,    m2 = sum(((x - high)*t)^2) - n*low^2

so a constant channel has no deviation, and the mean has two numbers, ``high + low/t``. s is small enough for any sum;
what underflows there is found again in low. t brings large differences near 1, so that no square overflows; it is 1
where they are small. The rule, for a tangent v of x, is::

    d high = sum(v)/n,    d m2 = 2*t*sum(v*((x - high)*t - low))

References
----------
Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983: the corrected two-pass algorithm (eq. 1.7)
and shifting (section 3).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bnspec._sharding import sharding_of
from bnspec_backends.xla.levels import total
from bnspec_backends.xla.once import once

__all__ = ["Deviations", "deviations"]


class Deviations(NamedTuple):
    """Mean and squared deviations; every field has length 1 along the axes of the sums."""

    high: Any
    low: Any  # in units: the mean is high + low/unit
    m2: Any  # in units: the squared deviations are m2/unit/unit
    unit: Any  # powers of two


def deviations(v: Any, keep: Any, count: Any, axes: tuple[int, ...], *, fits: bool) -> Deviations:
    """Return mean and squared deviations over some axes.

    Parameters
    ----------
    v : jax.Array
        Of the arithmetic dtype, not empty.
    keep : jax.Array of bool or None
        Of v's shape, but for length 1 where all channels share it; False elements do not count.
    count : jax.Array
        Number of elements that count, 1 for none; broadcasts against the result.
    axes : tuple of int
        Axes to sum over, counted from 0.
    fits : bool
        Whether the squares of differences of v's elements are known not to overflow.

    Examples
    --------
    >>> found = deviations(jnp.asarray([[1e30], [3e30]]), None, jnp.asarray(2.0), (0,), fits=False)
    >>> round(float(found.high[0, 0]) / 1e30, 6)
    2.0
    >>> round(float(jnp.sqrt(found.m2 / 2.0)[0, 0] / found.unit[0, 0]) / 1e30, 6)
    1.0
    """
    return Deviations(*_deviations(v, keep, count, axes, fits))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _deviations(v: Any, keep: Any, count: Any, axes: tuple[int, ...], fits: bool) -> tuple[Any, Any, Any, Any]:
    element = _element(v, keep, axes)
    unit = jnp.ones_like(element) if fits else _unit(v, keep, element, axes)
    small = jnp.asarray(2.0 ** -jnp.finfo(v.dtype).nmant, v.dtype)
    step = total(_counted(v * small - element * small, keep), axes) / count
    # Beside the largest number an element may be further from the mean than any number reaches; half of it is not.
    halves = 2 * (element / 2 + step / (2 * small))
    high = jnp.where(jnp.isfinite(step / small), element + step / small, halves)
    high = once(high, element)
    e = _counted(v * unit - high * unit, keep)  # the difference itself may overflow
    low = total(e, axes) / count
    m2 = total(e * e, axes) - count * (low * low)
    return high, low, jnp.where(m2 < 0, jnp.zeros_like(m2), m2), unit


@_deviations.defjvp
def _rule(axes: tuple[int, ...], fits: bool, given: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    v, keep, count = given
    found = high, low, _, unit = _deviations(v, keep, count, axes, fits)
    moved = _counted(tangents[0], keep)
    # Before it is multiplied: a masked NaN must not reach the derivative of this rule either.
    e = _counted(v * unit - high * unit - low, keep)
    s1, s2 = (once(total(each, axes), high) for each in (moved, moved * e))
    dots = s1 / count, jnp.zeros_like(low), 2 * unit * s2, jnp.zeros_like(unit)
    return found, dots


def _counted(v: Any, keep: Any) -> Any:
    return v if keep is None else jnp.where(keep, v, jnp.zeros_like(v))


def _element(v: Any, keep: Any, axes: tuple[int, ...]) -> Any:
    """Return an element of each channel that counts, or 0 where none does."""
    if keep is None:
        # The first: to pick another from a batch that is spread over devices would move data between them. Where the
        # type of the batch says that it is spread, an axis of it cannot be cut: of its first elements, the largest.
        sharding = sharding_of(v)
        held = [a for a in axes if sharding is not None and sharding.spec[a] is not None]
        first = jax.lax.slice(v, [0] * v.ndim, [1 if a in axes and a not in held else n for a, n in enumerate(v.shape)])
        return first.max(axis=held, keepdims=True) if held else first
    largest = jnp.where(keep, v, jnp.full_like(v, -jnp.inf)).max(axis=axes, keepdims=True)
    return jnp.where(keep.any(axis=axes, keepdims=True), largest, jnp.zeros_like(largest))


def _unit(v: Any, keep: Any, element: Any, axes: tuple[int, ...]) -> Any:
    """Return a power of two for each channel that brings differences near 1 from above; 1 where they are smaller."""
    # Quarters, since a difference itself may overflow.
    quarter = jnp.asarray(0.25, v.dtype)
    reach = jnp.abs(_counted(v * quarter - element * quarter, keep)).max(axis=axes, keepdims=True)
    about = jnp.finfo(v.dtype)
    nearest = jax.lax.reduce_precision(jnp.maximum(reach, 4), exponent_bits=about.nexp, mantissa_bits=0)
    return 4 / nearest  # not 1, which could be too small for a normal number
