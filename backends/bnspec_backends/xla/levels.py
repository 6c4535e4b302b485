"""Sums in levels, and their transpose: what every sum over a channel in JAX is made of.

A sum over N samples of H times W elements is taken level by level, each level over at most `LENGTH` elements of those
axes that lie next to each other: first within rows, then over rows, then over samples. An error then grows with the sum
of the levels' lengths and not with their product, and XLA still compiles each level as one loop. (A tree of halves
would be better yet, but each of its stages is an array of its own, which takes many times as long.)

The transpose of a broadcast is a sum, and JAX's own takes it in one go. `spread` broadcasts its tangent in the same
levels, so what JAX makes of it in reverse mode is `total`.

References
----------
Higham, "The accuracy of floating point summation", 1993, section 3 (pairwise and blocked summation).
"""

import functools
import math
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from bnspec._sharding import sharding_of

__all__ = ["LENGTH", "spread", "total"]

#: Most elements that one level adds; whole axes are taken together as long as they hold no more.
LENGTH = 64

#: Least length of the parts of an axis that is longer than that.
_SHORTEST = 8


def total(v: Any, axes: tuple[int, ...]) -> Any:
    """Sum an array over some axes, which stay with length 1.

    Parameters
    ----------
    v : jax.Array
        Of any floating dtype, in which the sum is taken.
    axes : tuple of int
        Axes to sum over, counted from 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> total(jnp.ones((8, 100, 3)), (0, 1)).tolist()
    [[[800.0, 800.0, 800.0]]]
    """
    held = _held(sharding_of(v))
    for level in _levels(v.shape, axes, held):
        a = level[0]
        while len(level) == 1 and (part := _part(v.shape[a], a in held)):
            length, shape = v.shape[a], v.shape
            if length % part:
                filled = [(0, -length % part * (i == a), 0) for i in range(v.ndim)]
                v = jax.lax.pad(v, jax.numpy.zeros((), v.dtype), filled)
            v = _kept(v.reshape(*shape[:a], -(-length // part), part, *shape[a + 1 :]).sum(axis=a + 1))
        v = _kept(v.sum(axis=level, keepdims=True))
    return v


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def spread(v: Any, shape: tuple[int, ...], axes: tuple[int, ...], sharding: Any = None) -> Any:
    """Broadcast an array along the axes in which its length is 1, so that its transpose is `total`.

    Parameters
    ----------
    v : jax.Array
        Of length 1 along `axes`.
    shape : tuple of int
        Shape to broadcast to.
    axes : tuple of int
        Axes to broadcast along.
    sharding : jax.sharding.NamedSharding, optional
        The result's, as `sharding_of` returns it.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> sizes = jax.grad(lambda v: spread(v, (8, 100, 3), (0, 1)).sum())(jnp.ones((1, 1, 3)))
    >>> sizes.tolist()
    [[[800.0, 800.0, 800.0]]]
    """
    return _broadcast(v, shape, sharding)


# With symbolic zeros: a factor that has no tangent is to add none where x is infinite, and not 0 times infinity.
@functools.partial(spread.defjvp, symbolic_zeros=True)
def _spread_tangent(
    shape: tuple[int, ...], axes: tuple[int, ...], sharding: Any, given: Any, tangents: Any
) -> tuple[Any, Any]:
    (v,) = tangents
    if isinstance(v, SymbolicZero):
        out = spread(*given, shape, axes, sharding)
        return out, zero_from_primal(out, symbolic_zeros=True)
    held = _held(sharding)
    for level in reversed(_levels(shape, axes, held)):
        v, a = _kept(v), level[0]
        if len(level) == 1 and _part(shape[a], a in held):
            v = _along(v, a, shape[a])
        else:
            v = _broadcast(v, tuple(shape[a] if a in level else n for a, n in enumerate(v.shape)), sharding)
    return spread(*given, shape, axes, sharding), v


def _along(v: Any, a: int, length: int) -> Any:
    """Broadcast along one axis, in the parts in which `total` sums over it."""
    part, shape = _part(length), v.shape
    if part is None:
        return jax.numpy.broadcast_to(v, (*shape[:a], length, *shape[a + 1 :]))
    parts = -(-length // part)
    v = jax.numpy.expand_dims(_kept(_along(v, a, parts)), a + 1)
    v = jax.numpy.broadcast_to(v, (*shape[:a], parts, part, *shape[a + 1 :]))
    v = v.reshape(*shape[:a], parts * part, *shape[a + 1 :])
    return v if parts * part == length else jax.lax.slice_in_dim(v, 0, length, axis=a)


def _broadcast(v: Any, shape: tuple[int, ...], sharding: Any) -> Any:
    if sharding is None:
        return jax.numpy.broadcast_to(v, shape)
    spec = jax.sharding.PartitionSpec(*(None if n == 1 else s for n, s in zip(shape, sharding.spec, strict=True)))
    own = jax.sharding.NamedSharding(sharding.mesh, spec)
    return jax.lax.broadcast_in_dim(v, shape, tuple(range(len(shape))), out_sharding=own)


def _held(sharding: Any) -> tuple[int, ...]:
    """Return the axes along which a sharding spreads an array."""
    return () if sharding is None else tuple(a for a, name in enumerate(sharding.spec) if name is not None)


def _kept(v: Any) -> Any:
    """Keep XLA from joining the sums of two levels into one, which it takes for the same."""
    return jax.lax.optimization_barrier(v)


def _levels(shape: tuple[int, ...], axes: tuple[int, ...], held: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the axes that are summed together, the last ones first: neighbours that hold at most `LENGTH` elements."""
    levels: list[tuple[int, ...]] = []
    for a in sorted(axes, reverse=True):
        joined = (*levels[-1], a) if levels else (a,)
        lengths = [shape[i] for i in joined]
        # A length that is only a symbol, as in jax.export, cannot be compared: its axis is a level of its own.
        known = all(isinstance(n, int) for n in lengths) and not any(i in held for i in joined)
        if levels and known and math.prod(lengths) <= LENGTH:
            levels[-1] = joined
        else:
            levels.append((a,))
    return levels


def _part(length: Any, held: bool = False) -> int | None:
    """Return the length of the parts that a long axis falls into; None where it is short, held, or its length a symbol.

    A length that no such number divides is filled up with zeros.
    """
    if held or not isinstance(length, int) or length <= LENGTH:
        return None
    return next((n for n in range(LENGTH, _SHORTEST - 1, -1) if length % n == 0), LENGTH)
