"""Moments: count, mean and sum of squared deviations of a group (SPEC.md, "Moments").

    mean = sum(x) / n,    m2 = sum((x - mean)^2),    var = m2 / n

computed in three steps that keep every digit at any mean: shift by a value K from the data, so that a
constant channel is exactly zero from there on; take the mean as ``high = K + sum(x - K)/n`` and what
rounding left of it as ``low = sum(x - high)/n``; sum the squares of ``(x - high) - low``.

References
----------
Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983: the corrected two-pass
algorithm (eq. 1.7), shifting (section 3) and merging (eq. 2.1).
"""

import math
from collections.abc import Callable

from bnspec._arrays import array_namespace, full, on_device_of, stop_gradient
from bnspec._counts import remember
from bnspec._dtypes import arithmetic_dtype, count_dtype, has_headroom
from bnspec._groups import reduced_axes, split, spread
from bnspec._masks import expand_mask, one_count
from bnspec._modes import untraced
from bnspec._sums import sum_over, two_sum
from bnspec._types import Array, Groups, Moments, per_channel

__all__ = [
    "group",
    "merge",
    "merge_by",
    "merge_groups",
    "merge_rows",
    "moments",
    "rows_of",
]


@on_device_of("x")
def moments(x: Array, groups: Groups, mask: Array | None, *, plain: bool | None = None) -> Moments:
    """Return the moments of each group and channel: primitive 1 of `bnspec.Kernels`.

    Parameters
    ----------
    x : array, shape (N, ..., C, ...)
        Any floating dtype.
    groups : Groups
        Channel axis and number of groups.
    mask : array of bool or None
        Of x's rank, broadcasts against x; False elements do not count [BN-MASK-1].
    plain : bool, optional
        How `sum_over` is to sum; by default plainly where x is narrower than the arithmetic dtype.

    Returns
    -------
    Moments
        count (G,), or (G, C) where the mask has C channels, mean, mean_low and m2 (G, C) in the arithmetic dtype.
        Where nothing counts, mean and m2 are 0.

    Examples
    --------
    >>> import numpy as np
    >>> m = moments(np.asarray([[1.0], [2.0], [6.0]]), Groups(axis=1, number=1), None)
    >>> m.count.tolist(), m.mean.tolist(), m.m2.tolist()
    ([3], [[3.0]], [[14.0]])
    """
    xp = array_namespace(x)
    dtype = arithmetic_dtype(x)
    axes = reduced_axes(x, groups)
    plain = has_headroom(x) if plain is None else plain
    v = xp.astype(split(x, groups), dtype, copy=False)
    size = math.prod([v.shape[a] for a in axes])
    if untraced(lambda: 0 in [v.shape[a] for a in axes]):
        zero = xp.sum(v, axis=axes)  # a sum of nothing: a rank without elements takes part in the derivative too
        shape = (groups.number,) if one_count(mask, groups) else zero.shape
        count = full(shape, 0, dtype=count_dtype(xp), like=x)
        return Moments(remember(count, [0] * math.prod(shape)), zero, zero, zero)

    if mask is None:
        count = full((groups.number,), size, dtype=count_dtype(xp), like=x)
        count = remember(count, [size] * groups.number)
        keep = None
    else:
        keep = split(expand_mask(mask, x, groups), groups)
        ones = xp.astype(keep, count_dtype(xp))
        count = xp.sum(ones, axis=tuple(range(1, v.ndim)) if one_count(mask, groups) else axes)
    n = per_channel(xp.astype(count, dtype))
    empty = n == 0
    n = n + xp.astype(empty, dtype)

    def total(values: Array) -> Array:
        if keep is not None:
            values = xp.where(keep, values, xp.zeros_like(values))
        return sum_over(values, axes, plain=plain)

    # The largest element lies in the data's range, so x - K never exceeds the spread; K is only a point to measure
    # from, hence a constant to the gradient.
    shift = v if keep is None else xp.where(keep, v, xp.full_like(v, -math.inf))
    shift = stop_gradient(xp.max(shift, axis=axes))
    shift = xp.where(empty, xp.zeros_like(shift), shift)
    high = shift + total(v - spread(shift, x, groups)) / n
    deviation = v - spread(high, x, groups)
    low = total(deviation) / n
    deviation = deviation - spread(low, x, groups)
    if keep is not None:  # before squaring: a masked NaN must not reach the sum's derivative either
        deviation = xp.where(keep, deviation, xp.zeros_like(deviation))
    m2 = sum_over(deviation * deviation, axes, plain=plain)
    return Moments(count, high, low, m2)


def merge(a: Moments, b: Moments) -> Moments:
    """Join the moments of two disjoint sets of elements as the specification writes it.

    Examples
    --------
    >>> import numpy as np
    >>> part = lambda *v: moments(np.asarray(v)[:, None], Groups(axis=1, number=1), None)
    >>> merge(part(1.0, 2.0), part(6.0)) == part(1.0, 2.0, 6.0)
    True
    """
    return merge_by(merge_rows, a, b)


def merge_by(merge_rows: Callable[[Array, Array, int], Array], a: Moments, b: Moments) -> Moments:
    """Join moments by a function of their rows; counts are added as the integers they are."""
    c = a.m2.shape[1]
    joined = merge_rows(rows_of(a), rows_of(b), 1)
    counts = (a.count, b.count) if a.count.ndim == b.count.ndim else (per_channel(a.count), per_channel(b.count))
    return Moments(counts[0] + counts[1], *(joined[:, k * c : (k + 1) * c] for k in (1, 2, 3)))


def rows_of(stats: Moments) -> Array:
    """Return moments as rows of count, mean, mean_low and m2, shape (G, 4*C), as `merge_rows` takes them."""
    xp = array_namespace(stats.m2)
    n = xp.broadcast_to(per_channel(xp.astype(stats.count, stats.m2.dtype)), stats.m2.shape)
    return xp.concat([n, stats.mean, stats.mean_low, stats.m2], axis=1)


def merge_rows(a: Array, b: Array, added: int = 1) -> Array:
    """Merge two sets whose moments are rows, one for each group.

    Parameters
    ----------
    a, b : array, shape (G, (added + 3)*C)
        Blocks of C columns: those that are added, of which the last is the weight, any number >= 0; then mean,
        mean_low and m2.
    added : int
        Number of blocks that are added.
    """
    xp = array_namespace(a)
    c = a.shape[1] // (added + 3)
    mean, low, m2 = (slice(k * c, (k + 1) * c) for k in range(added, added + 3))
    head = a[:, : added * c] + b[:, : added * c]
    n, na, nb = (v[:, (added - 1) * c : added * c] for v in (head, a, b))
    n = n + xp.astype(n == 0, n.dtype)
    d = (b[:, mean] - a[:, mean]) + (b[:, low] - a[:, low])
    # Dividing last keeps the merge exact where its result is representable [BN-MOM-6].
    high, rest = two_sum(a[:, mean], a[:, low] + (d * nb) / n)
    total = (a[:, m2] + b[:, m2]) + (d * d) * (na * nb) / n
    merged = xp.concat([head, high, rest, total], axis=1)
    alone = [xp.concat([v == 0] * (added + 3), axis=1) for v in (nb, na)]
    return xp.where(alone[0], a, xp.where(alone[1], b, merged))


def merge_groups(stats: Moments) -> Moments:
    """Merge all groups of one call, in order, into one: the population moments of the batch."""
    joined = group(stats, 0)
    for j in range(1, stats.m2.shape[0]):
        joined = merge(joined, group(stats, j))
    return joined


def group(stats: Moments, j: int) -> Moments:
    """The moments of group j alone."""
    return Moments(*(field[j : j + 1, ...] for field in stats))
