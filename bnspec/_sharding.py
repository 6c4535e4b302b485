"""Shards: arrays of JAX whose type says over which axes of a mesh each of their axes is spread.

Along such an axis JAX takes an array neither apart nor into other lengths, unless it is told where the result is to be.
Where the type does not say it, XLA sees to that by itself, and nothing here does anything.
"""

import math
import sys
from typing import Any

from bnspec._arrays import Array

__all__ = ["gathered", "parts", "sharding_of"]


def sharding_of(x: Array) -> Any:
    """Return how an array is spread over the explicit axes of a mesh; None where its type does not say that it is.

    Examples
    --------
    >>> import numpy as np
    >>> sharding_of(np.ones(2)) is None
    True
    """
    typeof = getattr(sys.modules.get("jax"), "typeof", None)  # newer than the oldest JAX that is served
    if typeof is None or not type(x).__module__.startswith("jax"):
        return None
    sharding = getattr(typeof(x), "sharding", None)
    return sharding if sharding is not None and any(name is not None for name in sharding.spec) else None


def parts(x: Array, axis: int) -> int:
    """Return the number of parts that an array's axis falls into by its type; 1 where it is whole.

    Examples
    --------
    >>> import numpy as np
    >>> parts(np.ones(2), 0)
    1
    """
    sharding = sharding_of(x)
    if sharding is None or (names := sharding.spec[axis]) is None:
        return 1
    return math.prod(sharding.mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)))


def gathered(x: Array) -> Array:
    """Return an array with all of axis 0 on each device, so that its rows can be taken.

    Examples
    --------
    >>> import numpy as np
    >>> gathered(np.ones(2)).tolist()
    [1.0, 1.0]
    """
    sharding = sharding_of(x)
    if sharding is None or sharding.spec[0] is None:
        return x
    jax: Any = sys.modules["jax"]
    spec = jax.sharding.PartitionSpec(None, *sharding.spec[1:])
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(sharding.mesh, spec))
