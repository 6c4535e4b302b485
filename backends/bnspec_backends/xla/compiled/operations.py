"""Operations on all elements of a JAX array: sums by compiled loops on a CPU, elementwise work and derivatives by XLA.

The functions here stand in the place of those of `formulas`. Masks, and
arrays that `serves` is not true of, they hand on.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from bnspec._groups import holds_nothing
from bnspec._sharding import sharding_of
from bnspec._types import Groups
from bnspec_backends.xla import formulas
from bnspec_backends.xla.compiled import primitives
from bnspec_backends.xla.statistics import Deviations

__all__ = ["affine", "deviations", "serves", "sums"]

_SERVED = ("float32", "bfloat16", "float16")


def serves(x: Any, groups: Groups) -> bool:
    """Return whether there are compiled loops for an array, eager or traced, if its program runs on a CPU.

    Not served are float64; shapes that are not known; and arrays whose type says that they are spread over devices.
    """
    known = all(isinstance(n, int) for n in x.shape) and not holds_nothing(x, groups) and 0 not in x.shape
    spread = sharding_of(x) is not None or getattr(jax.typeof(x), "vma", None)
    return x.dtype.name in _SERVED and known and not spread


def affine(v: Any, x: Any, centre: Any, unit: Any, scale: Any, shift: Any, groups: Groups) -> Any:
    """Return ``(v - centre)*unit*scale + shift`` in x's dtype; v is x widened. unit and shift may be absent."""
    if not serves(x, groups):
        return formulas.affine(v, x, centre, unit, scale, shift, groups)
    scale = jnp.broadcast_to(scale, centre.shape)
    shift = jnp.zeros_like(scale) if shift is None else jnp.broadcast_to(shift, centre.shape)
    return primitives.affine(None, None, scale, shift, v, stop_gradient(x), centre, unit, groups=groups, dtype=x.dtype)


def sums(dy: Any, x: Any, centre: Any, mask: Any, groups: Groups) -> tuple[Any, Any]:
    """Return ``sum dy`` and ``sum dy*(x - centre)``."""
    if mask is not None or not serves(x, groups):
        s1, s2 = formulas.sums(dy, x, centre, mask, groups)
        return s1, s2
    return primitives.sums(dy, x, stop_gradient(x), centre, jnp.ones_like(centre), groups=groups)


def deviations(v: Any, x: Any, mask: Any, groups: Groups) -> tuple[Any, Deviations]:
    """Return how many elements count, in the shape of `Moments`, and their deviations as (G, C) arrays."""
    if mask is not None or not serves(x, groups):
        count, found = formulas.deviations(v, x, mask, groups)
        return count, found
    return formulas.count_of(x, groups), Deviations(*_deviations(v, stop_gradient(x), groups))


@jax.custom_jvp
def _deviations(v: Any, x: Any, groups: Groups) -> tuple[Any, Any, Any, Any]:
    return primitives.measured(x, groups=groups)


@_deviations.defjvp
def _rule(given: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    v, x, groups = given
    found = high, low, _, unit = _deviations(v, x, groups)
    count = jnp.asarray(formulas.count_of(x, groups)[:, None], v.dtype)
    # Here the centre is none that is constant: a derivative of this rule is to follow it.
    s1, s2 = primitives.sums(tangents[0], v, x, high, stop_gradient(unit), groups=groups)
    return found, (s1 / count, jnp.zeros_like(low), 2 * unit * (s2 - low * s1), jnp.zeros_like(unit))
