"""Sums that lose nothing: where no wider format is at hand, each addition's rounding error is carried along.

References
----------
Knuth, TAOCP 2, section 4.2.2, theorem B (the error of an addition); Ogita, Rump, Oishi, "Accurate sum and
dot product", 2005 (cascaded summation).
"""

import math

from bnspec._arrays import array_namespace, concat, stop_gradient
from bnspec._modes import exporting
from bnspec._types import Array

__all__ = ["sum_over", "two_sum"]


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return fl(a + b) and its rounding error, exactly.

    The error is a constant to the gradient: a + b already carries the whole derivative.
    """
    s = a + b
    bb = s - a
    return s, stop_gradient((a - (s - bb)) + (b - bb))


def sum_over(x: Array, axes: tuple[int, ...], *, plain: bool) -> Array:
    """Sum an array over some axes.

    Parameters
    ----------
    x : array
        Of the arithmetic dtype.
    axes : tuple of int
        Axes to sum over, counted from 0.
    plain : bool
        True takes the library's sum, whose error grows with the number of terms. False folds the
        halves onto each other and carries the rounding error of each addition along (Ogita, Rump
        and Oishi 2005, cascaded summation on a tree): about one roundoff of the exact sum plus
        ``u**2 * log2(n) * sum|x|``. Under ``torch.jit.trace`` every sum is plain: a tree has the extents of the
        example in it, and would leave out elements of a longer batch.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([1e16, 1.0, -1e16])
    >>> float(sum_over(x, (0,), plain=True)), float(sum_over(x, (0,), plain=False))
    (0.0, 1.0)
    """
    xp = array_namespace(x)
    if plain or exporting(x):
        return xp.sum(x, axis=axes)
    kept = tuple(a for a in range(x.ndim) if a not in axes)
    length = math.prod([x.shape[a] for a in axes])
    shape = tuple(x.shape[a] for a in kept)
    total = xp.reshape(xp.permute_dims(x, (*axes, *kept)), (length, *shape))
    if length == 0:
        return xp.sum(total, axis=0)
    error = xp.zeros_like(total)
    while length > 1:
        half = length // 2
        folded, slip = two_sum(total[:half, ...], total[half : 2 * half, ...])
        slip = slip + (error[:half, ...] + error[half : 2 * half, ...])
        # The odd element out waits at the end for the next round.
        total = concat((folded, total[2 * half :, ...]), 0)
        error = concat((slip, error[2 * half :, ...]), 0)
        length -= half
    # An infinite or NaN sum has a NaN "error"; the sum itself says what happened.
    return total[0, ...] + xp.where(xp.isfinite(error[0, ...]), error[0, ...], xp.zeros_like(error[0, ...]))
