"""Gradients: the derivatives of normalization by batch statistics (SPEC.md, "Gradients").

With g = dy, n the count and S1 = sum g, S2 = sum g*(x - mean) over the group, joined across ranks::

    dx = a*g + b*(x - mean) + c,    a = gamma*r/sqrt(var + epsilon)
                                    b = -a*S2/(n*(var + epsilon)) + 2*dvar/n
                                    c = -a*S1/n + dmean/n

so the backward pass is two primitives, one that sums and one that is elementwise, as the forward pass is.
The same two, fed with the tangent of x, give the directional derivative.

References
----------
Ioffe, Szegedy, "Batch Normalization", 2015, section 3 (the chain rule of algorithm 1).
"""

from collections.abc import Callable

from bnspec._arrays import array_namespace, where
from bnspec._dtypes import arithmetic_dtype, has_headroom
from bnspec._groups import holds_nothing, reduced_axes, split, spread, unsplit
from bnspec._masks import expand_mask
from bnspec._normalize import factor, row
from bnspec._sums import sum_over
from bnspec._types import Array, Groups, Saved, per_channel

__all__ = [
    "cotangent_sums",
    "grad_input",
    "grad_sums",
    "input_coefficients",
    "parameter_gradients",
    "tangent_coefficients",
    "usable_part",
]


def grad_sums(
    dy: Array, x: Array, centre: Array, groups: Groups, mask: Array | None, *, plain: bool | None = None
) -> tuple[Array, Array]:
    """Return ``sum dy`` and ``sum dy*(x - centre)`` of each group: primitive 3 of `bnspec.Kernels`.

    Parameters
    ----------
    dy, x : array, shape (N, ..., C, ...)
        Any floating dtype.
    centre : array, shape (G, C)
        Of the arithmetic dtype.
    groups : Groups
        Channel axis and number of groups.
    mask : array of bool or None
        False elements do not count.
    plain : bool, optional
        How `sum_over` is to sum; by default plainly where both arrays are narrower than the arithmetic dtype.

    Returns
    -------
    tuple of array
        Two arrays of shape (G, C) in the arithmetic dtype.
    """
    xp = array_namespace(x)
    dtype = arithmetic_dtype(x)
    g = xp.astype(split(dy, groups), dtype, copy=False)
    product = g * (xp.astype(split(x, groups), dtype, copy=False) - spread(centre, x, groups))
    if mask is not None:
        keep = split(expand_mask(mask, x, groups), groups)
        g = xp.where(keep, g, xp.zeros_like(g))
        product = xp.where(keep, product, xp.zeros_like(product))
    axes = reduced_axes(x, groups)
    plain = has_headroom(x) and has_headroom(dy) if plain is None else plain
    return sum_over(g, axes, plain=plain), sum_over(product, axes, plain=plain)


def grad_input(
    dy: Array, x: Array, centre: Array, a: Array, b: Array, c: Array, groups: Groups, mask: Array | None
) -> Array:
    """Return ``a*dy + m*(b*(x - centre) + c)``: primitive 4 of `bnspec.Kernels`.

    Parameters
    ----------
    dy, x : array, shape (N, ..., C, ...)
        Any floating dtype.
    centre, a, b, c : array, shape (G, C)
        Of the arithmetic dtype.
    groups : Groups
        Channel axis and number of groups.
    mask : array of bool or None
        m is 1 where it is True or absent, else 0.

    Returns
    -------
    array
        x's shape and dtype, rounded to it once.
    """
    xp = array_namespace(x)
    dtype = arithmetic_dtype(x)
    statistics = (xp.astype(split(x, groups), dtype, copy=False) - spread(centre, x, groups)) * spread(b, x, groups)
    statistics = statistics + spread(c, x, groups)
    if mask is not None:
        keep = split(expand_mask(mask, x, groups), groups)
        statistics = xp.where(keep, statistics, xp.zeros_like(statistics))
    dx = xp.astype(split(dy, groups), dtype, copy=False) * spread(a, x, groups) + statistics
    return unsplit(xp.astype(dx, x.dtype, copy=False), x)


def parameter_gradients(s1: Array, s2: Array, saved: Saved) -> tuple[Array | None, Array | None]:
    """Return the rank's own ``dgamma = sum g*(xhat*r + d)`` and ``dbeta = sum g``, shape (C,) each.

    s1 and s2 are the local sums of g and g*(x - mean), shape (G, C). Over nothing both gradients are 0, also where the
    statistics are not finite [BN-MASK-5].
    """
    xp = array_namespace(s1)
    dgamma = dbeta = None
    if saved.gamma is not None:
        if holds_nothing(saved.x, saved.static.groups):
            each = xp.zeros_like(s1)
        else:
            each = s2 * factor(None, saved.r, saved.inverse_stddev)
            if saved.d is not None:
                each = each + saved.d * s1
        dgamma = xp.astype(xp.sum(each, axis=0), saved.gamma.dtype)
    if saved.beta is not None:
        dbeta = xp.astype(xp.sum(s1, axis=0), saved.beta.dtype)
    return dgamma, dbeta


def input_coefficients(
    s1: Array, s2: Array, dmean: Array | None, dvar: Array | None, saved: Saved
) -> tuple[Array, Array, Array]:
    """Return a, b, c of ``dx = a*g + b*(x - mean) + c`` from the joined sums [BN-GRAD-1, BN-GRAD-6].

    dmean and dvar are the joined cotangents of the returned statistics. The divisor is the count, or under
    ``sync_weighting="rank"`` the number of ranks times the rank's own count [BN-SYNC-8].
    """
    assert saved.divisor is not None, "frozen statistics have no input coefficients"
    n = per_channel(saved.divisor)
    inverse = saved.inverse_stddev
    a = factor(saved.gamma, saved.r, inverse)
    b = -a * (inverse * (inverse * (s2 / n)))
    c = -a * (s1 / n)
    if dvar is not None:
        b = b + 2.0 * (dvar / n)
    if dmean is not None:
        c = c + dmean / n
    return a, b, c


def tangent_coefficients(
    mean_dot: Array, var_dot: Array, gamma_dot: Array | None, beta_dot: Array | None, saved: Saved
) -> tuple[Array, Array, Array]:
    """Return a, b, c such that ``ydot = a*xdot + b*(x - mean) + c`` [BN-GRAD-4]."""
    inverse = saved.inverse_stddev
    a = factor(saved.gamma, saved.r, inverse)
    b = -a * (inverse * (inverse * (var_dot * 0.5)))
    c = -a * mean_dot
    if gamma_dot is not None:
        b = b + row(gamma_dot, b) * factor(None, saved.r, inverse)
        if saved.d is not None:
            c = c + row(gamma_dot, c) * saved.d
    if beta_dot is not None:
        c = c + row(beta_dot, c)
    return a, b, c


def usable_part(x: Array, saved: Saved) -> tuple[Array, Array | None]:
    """Return the saved x with 0 for masked NaN and infinity, and where x counts as it is (None: everywhere)."""
    if saved.mask is None:
        return x, None
    xp = array_namespace(x)
    usable = expand_mask(saved.mask, x, saved.static.groups) | xp.isfinite(x)
    return where(usable, x, xp.zeros_like(x)), usable


def cotangent_sums(
    grad_sums: Callable[..., tuple[Array, Array]], dy: Array, x: Array, saved: Saved
) -> tuple[Array, Array, Array]:
    """Return x without masked NaN and infinity, the local ``sum g`` and ``sum g*(x - mean)``.

    Every g counts, masked or not, since every y depends on the statistics; an x that is masked and not
    finite adds nothing to the second sum [BN-MASK-3].
    """
    x, usable = usable_part(x, saved)
    s1, centred = grad_sums(dy, x, saved.centre, saved.static.groups, None)
    if usable is None:
        return x, s1, centred - saved.centre_low * s1
    s1_usable, centred = grad_sums(dy, x, saved.centre, saved.static.groups, usable)
    return x, s1, centred - saved.centre_low * s1_usable
