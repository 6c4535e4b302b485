"""Numbers of a channel that XLA computes once, and not again for each element that uses them.

Where XLA joins loops, it repeats cheap arithmetic on C numbers inside of each loop over x that reads them, so that
those take longer to compile and to run. `jax.lax.optimization_barrier` does not help: it is gone by then. Costly
arithmetic is not repeated, and a division is costly.
"""

from typing import Any

__all__ = ["once"]


def once(v: Any, beside: Any) -> Any:
    """Return v, which a loop over more elements then reads and does not compute.

    Parameters
    ----------
    v : jax.Array
        Of any floating dtype. Its tangents and cotangents are computed once too.
    beside : jax.Array
        Any array of v's shape and dtype, whatever its values; the same one for several v makes less of a program. In a
        rule, where only what is linear may be done to a tangent, it must not be one.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> once(jnp.asarray([0.5, -jnp.inf, jnp.nan]), jnp.asarray([jnp.nan, 0.0, 1.0])).tolist()
    [0.5, -inf, nan]
    >>> jax.grad(lambda v: 3.0 * once(v, v))(jnp.nan).tolist()
    3.0
    """
    # Every value is a number or is none, so this is 1; XLA does not see it, and a constant 1 it would leave out.
    one = (beside == beside).astype(v.dtype) + (beside != beside).astype(v.dtype)
    return v / one
