"""Moments for whoever wants no more: the public functions, with the checks and the kernels of every other call."""

from bnspec._arrays import on_device_of
from bnspec._checks import arguments
from bnspec._discovery import kernels_for
from bnspec._masks import mask_of
from bnspec._modes import untraced
from bnspec._moments import merge_by
from bnspec._types import Array, Groups, Moments

__all__ = ["merge", "moments"]


@on_device_of("x")
def moments(x: Array, groups: Groups, mask: Array | None = None, *, name: str = "moments") -> Moments:
    """Return the moments of each group and channel of x.

    Parameters
    ----------
    x : array, shape (N, ..., C, ...)
        float16, bfloat16, float32 or float64, rank >= 2 [BN-SHAPE-1, BN-SHAPE-5].
    groups : Groups
        Channel axis, counted from 0, and number of groups, which divides N [BN-GRP-2].
    mask : array of bool, optional
        Broadcasts against x, of x's rank or without the channel axis; False elements do not count [BN-MASK-1].
    name : str
        In error texts.

    Returns
    -------
    Moments
        count (G,), or (G, C) with a mask of the channels' own, mean, mean_low and m2 (G, C) in the arithmetic dtype.
        Where nothing counts, mean and m2 are 0.

    Raises
    ------
    TypeError, ValueError
        For input that breaks a clause, which the text names.

    References
    ----------
    Chan, Golub, LeVeque 1983, eq. 1.7 and section 3.

    Examples
    --------
    >>> import numpy as np
    >>> m = moments(np.asarray([[1.0], [2.0], [6.0]]), Groups(axis=1, number=1))
    >>> m.count.tolist(), m.mean.tolist(), m.m2.tolist()
    ([3], [[3.0]], [[14.0]])
    """
    untraced(arguments.moments, x, groups, mask, name)
    return kernels_for(x).moments(x, groups, mask_of(x, groups.axis, mask, None))


@on_device_of("a")
def merge(a: Moments, b: Moments, *, name: str = "merge") -> Moments:
    """Return the moments of two disjoint sets of elements joined, group by group [BN-MOM-7].

    With d = mean_b - mean_a and n = n_a + n_b::

        mean = mean_a + d * n_b / n
        m2   = m2_a + m2_b + d^2 * n_a * n_b / n

    A set without elements is the identity, to the bit.

    Parameters
    ----------
    a, b : Moments
        Of the same groups and channels, in one dtype, library and device.
    name : str
        In error texts.

    Returns
    -------
    Moments
        Of the union.

    Raises
    ------
    TypeError, ValueError
        For moments that do not belong together, or have a count or m2 below 0 [BN-RUN-14].

    References
    ----------
    Chan, Golub, LeVeque 1983, eq. 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> part = lambda *v: moments(np.asarray(v)[:, None], Groups(axis=1, number=1))
    >>> merge(part(1.0, 2.0), part(6.0)) == part(1.0, 2.0, 6.0)
    True
    """
    untraced(arguments.merge, a, b, name)
    return merge_by(kernels_for(a.m2).merge, a, b)
