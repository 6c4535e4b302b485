"""Plain NumPy for mutants: wrong moments and wrong outputs, computed anew from what the kernels were given."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Moments, Normalized
from bnspec._groups import reduced_axes, split, spread, unsplit
from bnspec._masks import expand_mask
from bnspec._normalize import scale_and_shift
from bnspec._sums import two_sum
from bnspec_conformance.mutants.overriding import Override, override

__all__ = [
    "about",
    "dx_plus",
    "kept",
    "measured_from",
    "normalized_again",
    "total",
    "wide",
    "with_deviation",
    "with_moments",
    "with_params",
    "with_y",
]

#: Of var and epsilon, the inverse deviation.
Deviation = Callable[[Any, float], Any]


def wide(x: Any, groups: Any) -> Any:
    """Return x in float64, shape (G, N/G, ..., C, ...)."""
    return split(x, groups).astype("float64")


def kept(x: Any, groups: Any, mask: Any) -> Any:
    """Return where elements count, as an array that broadcasts against `wide`."""
    return np.asarray(True) if mask is None else split(expand_mask(mask, x, groups), groups)


def total(values: Any, x: Any, groups: Any) -> Any:
    """Sum elements plainly, in their own dtype, over each group and channel; return float64 of shape (G, C)."""
    return np.sum(values, axis=reduced_axes(x, groups)).astype("float64")


def about(m: Moments, mean: Any, x: Any, groups: Any, mask: Any) -> Moments:
    """Return moments about another mean, which has no low part."""
    deviation = np.where(kept(x, groups, mask), wide(x, groups) - spread(mean, x, groups), 0.0)
    return m._replace(mean=mean, mean_low=mean * 0.0, m2=total(deviation * deviation, x, groups))


def measured_from(value: Any) -> Any:
    """Return a change of moments: a batch without mask is measured from other values than those in it.

    Parameters
    ----------
    value : callable
        Returns an array of shape (G, C), given the elements as `wide` and the axes to reduce.
    """

    def moments(original: Any, x: Any, groups: Any, mask: Any) -> Moments:
        if mask is not None or not x.size:
            return original(x, groups, mask)  # type: ignore[no-any-return]
        v = wide(x, groups)
        shift = value(v, reduced_axes(x, groups))
        m = original((v - spread(shift, x, groups)).reshape(x.shape), groups, None)
        mean, low = two_sum(shift + 0.0 * m.mean, m.mean + m.mean_low)
        return Moments(m.count, mean, low, m.m2)

    return override(moments=moments)


def with_moments(change: Callable[..., Moments]) -> Override:
    """Return a change of moments: ``change(moments, x, groups, mask)`` takes their place, unless x is empty."""

    def moments(original: Any, x: Any, groups: Any, mask: Any) -> Moments:
        found = original(x, groups, mask)
        return change(found, x, groups, mask) if x.size else found

    return override(moments=moments)


def normalized_again(
    original: Any, done: Normalized, x: Any, params: Any, groups: Any, change: Callable[[Any, Any], Any] | None = None
) -> Normalized:
    """Return a forward result whose y is computed again from the statistics that it holds.

    Parameters
    ----------
    original : method
        Of the kernels that normalize.
    done : Normalized
        The statistics, some of them wrong.
    x, params, groups
        As the kernels were given them.
    change : callable, optional
        Returns other scale and shift than the right ones.
    """
    scale, shift = scale_and_shift(params, done.inverse_stddev, done.centre_low, done.r, done.d)
    if change is not None:
        scale, shift = change(scale, shift)
    return done._replace(y=original.__self__.normalize(x, done.centre, scale, shift, groups))


def with_deviation(inverse: Deviation) -> Override:
    """Return a change of both forward operations: another inverse deviation of var and epsilon."""

    def forward(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
        stats, done = original(x, params, config, groups, **more)
        done = done._replace(inverse_stddev=inverse(stats.var, config.epsilon))
        return stats, normalized_again(original, done, x, params, groups)

    def infer(original: Any, x: Any, params: Any, mean: Any, var: Any, epsilon: float, groups: Any) -> Any:
        done = original(x, params, mean, var, epsilon, groups)
        done = done._replace(inverse_stddev=inverse(var.astype("float64")[None, :], epsilon))
        return normalized_again(original, done, x, params, groups)

    return override(forward=forward, infer=infer)


def with_params(change: Callable[[Any], Any]) -> Override:
    """Return a change of both forward operations: other gamma and beta."""

    def forward(original: Any, x: Any, params: Any, *rest: Any, **more: Any) -> Any:
        return original(x, change(params), *rest, **more)

    return override(forward=forward, infer=forward)


def with_y(change: Callable[..., Any]) -> Override:
    """Return a change of the forward operation: ``change(y, x, mask)`` takes the place of y where there is a mask."""

    def forward(original: Any, x: Any, *rest: Any, mask: Any = None, **more: Any) -> Any:
        stats, done = original(x, *rest, mask=mask, **more)
        return stats, done if mask is None else done._replace(y=change(done.y, x, mask))

    return override(forward=forward)


def dx_plus(dx: Any, values: Any, groups: Any) -> Any:
    """Return an array of x's shape with values added, which broadcast against `wide`, rounded once."""
    return unsplit((wide(dx, groups) + values).astype(dx.dtype), dx)
