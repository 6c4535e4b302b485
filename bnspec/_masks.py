"""Masks: which elements count (SPEC.md, "Masks").

A caller may give booleans of x's rank, booleans without the channel axis, or the lengths of padded sequences. Inside,
a mask has x's rank: its extent is 1 or C along the channel axis, and 1 or x's along every other.
"""

from bnspec._arrays import array_namespace, beside
from bnspec._dtypes import count_dtype
from bnspec._modes import untraced
from bnspec._types import Array, Groups

__all__ = ["expand_mask", "mask_of", "one_count", "sequence_axis"]


def mask_of(x: Array, axis: int, mask: Array | None, lengths: Array | None) -> Array | None:
    """Return the mask of a call in x's rank, or None where every element counts.

    Parameters
    ----------
    x : array, shape (N, ..., C, ...)
    axis : int
        The channel axis of x, counted from 0.
    mask : array of bool or None
        Of x's rank, or without the channel axis.
    lengths : array of int, shape (N,), or None
        Elements from this position on along `sequence_axis` do not count.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((2, 3, 5))  # two sequences of three steps, five channels
    >>> mask_of(x, 2, np.ones((2, 3), bool), None).shape
    (2, 3, 1)
    >>> mask_of(x, 2, None, np.asarray([3, 1]))[..., 0].tolist()
    [[True, True, True], [True, False, False]]
    """
    if lengths is None:
        return mask if mask is None or mask.ndim == x.ndim else array_namespace(mask).expand_dims(mask, axis=axis)
    xp, along = array_namespace(lengths), sequence_axis(x.ndim, axis)
    whole = count_dtype(xp)
    steps = xp.arange(x.shape[along], dtype=whole, **beside(lengths))
    shape = tuple(n if a == along else 1 for a, n in enumerate(x.shape))
    first = tuple(n if a == 0 else 1 for a, n in enumerate(x.shape))
    return xp.reshape(steps, shape) < xp.reshape(xp.astype(lengths, whole), first)


def sequence_axis(rank: int, axis: int) -> int:
    """Return the axis along which sequences run: the first that holds neither samples nor channels.

    Examples
    --------
    >>> sequence_axis(3, 2), sequence_axis(3, 1), sequence_axis(4, 3)
    (1, 2, 1)
    """
    return next(a for a in range(1, rank) if a != axis)


def one_count(mask: Array | None, groups: Groups) -> bool:
    """Return whether one count serves all channels of a group: a mask of x's rank may have the channels' extent."""
    return mask is None or untraced(lambda: bool(mask.shape[groups.axis] == 1))


def expand_mask(mask: Array, x: Array, groups: Groups) -> Array:
    """Broadcast a mask of x's rank to x's shape, but for its own extent along the channel axis, 1 or C."""
    shape = tuple(mask.shape[a] if a == groups.axis else n for a, n in enumerate(x.shape))
    return array_namespace(mask).broadcast_to(mask, shape)
