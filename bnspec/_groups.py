"""Groups: which elements share one mean and one variance (SPEC.md, "Groups").

Every operation sees the batch as an array with one more axis in front: ``(G, N/G, ...)``. Splitting axis 0
moves no data, plain batch normalization is the case G = 1, and no operation needs to know which it is.

References
----------
Hoffer, Hubara, Soudry, "Train longer, generalize better", 2017, algorithm 1 (ghost batches).
"""

from bnspec._arrays import array_namespace
from bnspec._modes import untraced
from bnspec._types import Array, Groups

__all__ = ["channels", "holds_nothing", "reduced_axes", "split", "spread", "unsplit"]


def split(x: Array, groups: Groups) -> Array:
    """View x, shape (N, ...), as (G, N/G, ...).

    Examples
    --------
    >>> import numpy as np
    >>> split(np.zeros((6, 5)), Groups(axis=1, number=3)).shape
    (3, 2, 5)
    """
    xp = array_namespace(x)
    if groups.number == 1:
        return xp.expand_dims(x, axis=0)
    samples = x.shape[0] // groups.number if groups.number else 0
    return xp.reshape(x, (groups.number, samples, *x.shape[1:]))


def unsplit(grouped: Array, like: Array) -> Array:
    """Undo `split`: give back like's shape."""
    return array_namespace(grouped).reshape(grouped, like.shape)


def spread(v: Array, x: Array, groups: Groups) -> Array:
    """Reshape per-channel values (G, C) so that they broadcast against ``split(x, groups)``."""
    shape = [1] * (x.ndim + 1)
    shape[0], shape[groups.axis + 1] = v.shape
    return array_namespace(v).reshape(v, tuple(shape))


def reduced_axes(x: Array, groups: Groups) -> tuple[int, ...]:
    """Axes of ``split(x, groups)`` that a statistic sums over: all but the group and the channel."""
    return tuple(a for a in range(1, x.ndim + 1) if a != groups.axis + 1)


def holds_nothing(x: Array, groups: Groups) -> bool:
    """Return whether x has no element in any channel, so that a sum over its elements is 0 whatever they are times."""
    return untraced(lambda: 0 in [n for a, n in enumerate(x.shape) if a != groups.axis])


def channels(x: Array, groups: Groups) -> int:
    """C, the length of x's channel axis."""
    return int(x.shape[groups.axis])
