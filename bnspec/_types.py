"""The records that travel between the functions of bnspec.

All are NamedTuples of arrays, so they are immutable, unpack, compare field by field and pass through
``jax.jit`` as they are. ``C`` is the number of channels, ``G`` the number of groups (1 unless ghost).
The *statistics dtype* is float64 for float64 input and float32 for every other input; the
*arithmetic dtype* is float64 wherever the device has it, else float32 [BN-PREC-1].
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from bnspec._arrays import Array, array_namespace
from bnspec._static import static

__all__ = [
    "Array",
    "Gradients",
    "Groups",
    "Moments",
    "Normalized",
    "Params",
    "RunningState",
    "Saved",
    "Static",
    "Tangents",
    "per_channel",
]


@static
@dataclass(frozen=True)
class Groups:
    """Division of the batch into groups: static, the same for every array of one call.

    Attributes
    ----------
    axis : int
        The channel axis of x, counted from 0.
    number : int
        Groups per channel: 1, or N / virtual_batch_size. Group j holds the samples
        ``j*N/number .. (j+1)*N/number - 1`` along axis 0 [BN-GRP-2].
    """

    axis: int
    number: int


class Params(NamedTuple):
    """Scale and shift of the normalized value. An absent gamma is 1, an absent beta 0."""

    gamma: Array | None  # shape (C,), a real floating dtype; None when config.scale is False
    beta: Array | None  # shape (C,), a real floating dtype; None when config.center is False


class RunningState(NamedTuple):
    """Running statistics of the batches that a layer saw. Fields a configuration does not use are None."""

    mean: Array  # shape (C,), statistics dtype; average of the batch means
    var: Array  # shape (C,), statistics dtype; average of the batch variances, m2 / (count - correction)
    # Typed as Any, which includes None: `tuple` has a method of this name, and checkers forbid a stricter override.
    count: Array = None  # shape (C,), integer: updates seen, or elements seen when averaging is "pooled"
    stddev: Array | None = None  # shape (C,), statistics dtype; renorm: average of sqrt(var + epsilon)
    renorm_mean: Array | None = None  # shape (C,), statistics dtype; renorm "tensorpack" form: the reference mean
    renorm_stddev: Array | None = None  # shape (C,), statistics dtype; the reference of sqrt(var + epsilon)


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of each group and channel.

    The mean is an unevaluated sum ``mean + mean_low``: one array of the arithmetic dtype cannot
    hold it closely enough for ``x - mean`` to be right when the mean is large.
    """

    # integer, unmasked elements per channel; (G, C) with a mask of the channels' own, and across ranks
    count: Array  # shape (G,) or (G, C)
    mean: Array  # shape (G, C), arithmetic dtype
    mean_low: Array  # shape (G, C), arithmetic dtype; |mean_low| is a roundoff of |mean|
    m2: Array  # shape (G, C), arithmetic dtype; sum of (x - mean)^2, >= 0

    @property
    def var(self) -> Array:
        """Population variance ``m2 / count``, shape (G, C); 0 where count is 0."""
        count = per_channel(array_namespace(self.m2).astype(self.count, self.m2.dtype))
        return self.m2 / (count + array_namespace(self.m2).astype(count == 0, count.dtype))


def per_channel(count: Array) -> Array:
    """Return counts, or divisors, of shape (G,) or (G, C) so that they broadcast against (G, C)."""
    return count[:, None] if count.ndim == 1 else count


class Normalized(NamedTuple):
    """Result of a forward pass: y, and the statistics that it was normalized by."""

    y: Array  # x's shape and dtype
    centre: Array  # shape (G, C), arithmetic dtype: high part of the mean that was subtracted
    centre_low: Array  # shape (G, C), arithmetic dtype: its low part
    inverse_stddev: Array  # shape (G, C), arithmetic dtype: 1 / sqrt(var + epsilon)
    divisor: Array | None = None  # count's shape, arithmetic dtype: divides joined gradient sums; None where frozen
    r: Array | None = None  # shape (G, C): renorm's scale correction
    d: Array | None = None  # shape (G, C): renorm's shift correction


class Saved(NamedTuple):
    """Record of a forward pass for its derivatives."""

    x: Array  # the input
    mask: Array | None  # booleans that broadcast against x; None where every element counts
    gamma: Array | None  # shape (C,)
    beta: Array | None  # shape (C,); only its dtype is used
    centre: Array  # shape (G, C), arithmetic dtype: high part of the mean that was subtracted
    centre_low: Array  # shape (G, C), arithmetic dtype: its low part
    inverse_stddev: Array  # shape (G, C), arithmetic dtype: 1 / sqrt(var + epsilon)
    divisor: Array | None  # count's shape, arithmetic dtype: divides joined gradient sums; None where frozen
    r: Array | None  # shape (G, C): renorm's scale correction, a constant to the gradient
    d: Array | None  # shape (G, C): renorm's shift correction, a constant to the gradient
    static: "Static"

    @classmethod
    def of(cls, x: Array, mask: Array | None, params: Params, done: Normalized, static: "Static") -> "Saved":
        """Keep a forward pass."""
        return cls(x, mask, params.gamma, params.beta, *done[1:], static)

    @property
    def frozen(self) -> bool:
        """Return whether x was normalized by running statistics, which are constants to the derivatives [BN-INF-3]."""
        return self.static.frozen


@static
@dataclass(frozen=True)
class Static:
    """The part of `Saved` that is no array."""

    groups: Groups
    config: Any  # BatchNormConfig; untyped here, because the configuration imports nothing of the arrays
    name: str
    frozen: bool = False  # True for the running statistics of `batch_norm_inference`


class Gradients(NamedTuple):
    """Gradients of a scalar loss."""

    x: Array  # x's shape and dtype
    gamma: Array | None  # shape (C,), gamma's dtype; the rank's own, never joined across ranks [BN-SYNC-7]
    beta: Array | None  # shape (C,), beta's dtype


class Tangents(NamedTuple):
    """Directional derivatives of everything `batch_norm` returns."""

    y: Array  # x's shape and dtype
    mean: Array | None  # shape (G, C), arithmetic dtype; None for frozen statistics
    var: Array | None  # shape (G, C), arithmetic dtype
