"""Normalization: centre, scale and shift (SPEC.md, "Normalization").

    y = gamma * (x - mean) / sqrt(var + epsilon) + beta

evaluated as ``(x - centre)*scale + shift``. The mean is subtracted before anything is multiplied: written
as ``x*scale + shift`` the formula loses as many digits as mean/std has. The low part of the mean is small
beside one standard deviation, so the shift carries it.

References
----------
Ioffe, Szegedy, "Batch Normalization", 2015, algorithm 1.
"""

from collections.abc import Callable

from bnspec._arrays import array_namespace, stop_gradient
from bnspec._dtypes import arithmetic_dtype
from bnspec._groups import holds_nothing, split, spread, unsplit
from bnspec._masks import expand_mask
from bnspec._modes import differentiated
from bnspec._types import Array, Groups, Moments, Params

__all__ = [
    "constants_of",
    "factor",
    "inverse_stddev",
    "normalize",
    "normalize_usable",
    "row",
    "scale_and_shift",
]


def normalize(x: Array, centre: Array, scale: Array, shift: Array, groups: Groups) -> Array:
    """Return ``(x - centre)*scale + shift``: primitive 2 of `bnspec.Kernels`.

    Parameters
    ----------
    x : array, shape (N, ..., C, ...)
        Any floating dtype.
    centre, scale, shift : array, shape (G, C)
        Of the arithmetic dtype.
    groups : Groups
        Channel axis and number of groups.

    Returns
    -------
    array
        x's shape and dtype, rounded to it once.

    Examples
    --------
    >>> import numpy as np
    >>> one = lambda v: np.full((1, 1), v)
    >>> normalize(np.asarray([[1.0], [3.0]]), one(2.0), one(10.0), one(0.5), Groups(axis=1, number=1)).tolist()
    [[-9.5], [10.5]]
    """
    xp = array_namespace(x)
    v = xp.astype(split(x, groups), arithmetic_dtype(x), copy=False)
    y = (v - spread(centre, x, groups)) * spread(scale, x, groups) + spread(shift, x, groups)
    return unsplit(xp.astype(y, x.dtype, copy=False), x)


def inverse_stddev(var: Array, epsilon: float) -> Array:
    """Return ``1 / sqrt(var + epsilon)``."""
    return 1.0 / array_namespace(var).sqrt(var + epsilon)


def scale_and_shift(
    params: Params, inverse: Array, mean_low: Array, r: Array | None, d: Array | None
) -> tuple[Array, Array]:
    """Return the (G, C) scale and shift of ``gamma*(xhat*r + d) + beta`` for x centred on the high mean.

    The order is fixed: ``scale = (gamma*r) * inverse``, so that r = 1 leaves every bit as it was [BN-RENORM-3].
    """
    scale = factor(params.gamma, r, inverse)
    shift = -(mean_low * scale)
    if d is not None:
        shift = (d if params.gamma is None else row(params.gamma, d) * d) + shift
    if params.beta is not None:
        shift = row(params.beta, shift) + shift
    return scale, shift


def constants_of(x: Array, groups: Groups, *values: Array | None) -> tuple[Array | None, ...]:
    """Return what scales and shifts x besides the parameters: zeros where x holds nothing.

    y is empty then. The library's own derivative by gamma is a sum over nothing times these, which is to be 0 and not
    NaN [BN-MASK-5]. The zeros are selected, not new: a rank without elements must take part in the derivatives of what
    ranks share as often as the others, so y depends there on what it depends on elsewhere.
    """
    if not holds_nothing(x, groups):
        return values
    return tuple(None if v is None else _nothing_of(v) for v in values)


def _nothing_of(v: Array) -> Array:
    xp = array_namespace(v)
    zero = xp.zeros_like(v)
    return xp.where(zero != 0, v, zero)


def factor(gamma: Array | None, r: Array | None, inverse: Array) -> Array:
    """Return ``(gamma*r) * inverse``, absent factors being 1."""
    if gamma is None:
        return inverse if r is None else r * inverse
    gamma = row(gamma, inverse)
    return (gamma if r is None else gamma * r) * inverse


def row(parameter: Array, like: Array) -> Array:
    """A parameter of shape (C,) as (1, C) in like's dtype."""
    return array_namespace(parameter).astype(parameter, like.dtype)[None, :]


def normalize_usable(
    normalize: Callable[..., Array],
    x: Array,
    mask: Array | None,
    stats: Moments,
    scale: Array,
    shift: Array,
    groups: Groups,
) -> Array:
    """Normalize; automatic differentiation takes xhat as 0 where x is masked and not finite [BN-MASK-3]."""
    centre = stats.mean
    if mask is None or not differentiated(x, scale, shift):
        return normalize(x, centre, scale, shift, groups)
    xp = array_namespace(x)
    usable = expand_mask(mask, x, groups) | xp.isfinite(x)
    y = normalize(xp.where(usable, x, xp.zeros_like(x)), centre, scale, shift, groups)
    image = normalize(x, stop_gradient(centre), stop_gradient(scale), stop_gradient(shift), groups)
    # `middle` is y at x = mean. Adding `middle - stop_gradient(middle)`, a zero, gives masked elements that are not
    # finite the gradients of y with xhat = 0.
    middle = ((stop_gradient(centre) - centre) + stop_gradient(stats.mean_low)) * scale + shift
    nothing = xp.where(xp.isfinite(middle), middle - stop_gradient(middle), xp.zeros_like(middle))
    return xp.where(usable, y, unsplit(split(image, groups) + spread(nothing, x, groups), x))
