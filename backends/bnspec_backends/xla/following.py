"""Numbers that follow a centre in derivatives, which is a constant where it is subtracted from each element of x."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["following"]


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
