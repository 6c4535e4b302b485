"""Normalization by batch statistics and by running statistics: the two forward operations.

Each is a few lines over the four primitives. There is no training flag: normalizing by the batch,
normalizing by the running state and updating that state are three functions, and the options of a layer
are ways to compose them.
"""

from bnspec import _validate
from bnspec._config import BatchNormConfig
from bnspec._devices import on_device_of
from bnspec._groups import split, spread, unsplit
from bnspec._modes import differentiated, untraced
from bnspec._moments import expand_mask
from bnspec._namespace import array_namespace
from bnspec._normalize import inverse_stddev, scale_and_shift
from bnspec._precision import arithmetic_dtype, stop_gradient
from bnspec._protocols import Communicator, Kernels
from bnspec._registry import as_fused, kernels_for
from bnspec._renorm import corrections
from bnspec._running import used_statistics
from bnspec._sync import join_moments, signature
from bnspec._types import Array, Groups, Moments, Params, RunningState, Saved, Static
from bnspec._widening import narrowed, widened

__all__ = ["batch_norm", "batch_norm_inference"]


@on_device_of("x")
def batch_norm(
    x: Array,
    params: Params,
    config: BatchNormConfig,
    *,
    state: RunningState | None = None,
    mask: Array | None = None,
    comm: Communicator | None = None,
    name: str = "batch_norm",
) -> tuple[Array, Moments, Saved]:
    """Normalize each group of x by its own mean and variance.

    With mean and var over the group (joined across ranks), and r = 1, d = 0 unless renorm is on::

        y = gamma * ((x - mean)/sqrt(var + epsilon) * r + d) + beta

    Parameters
    ----------
    x : array, shape (N, ..., C, ...)
        float16, bfloat16, float32 or float64, rank >= 2 [BN-SHAPE-1, BN-SHAPE-5].
    params : Params
        gamma and beta, shape (C,), None where the configuration has none.
    config : BatchNormConfig
        What to compute.
    state : RunningState, optional
        Only read, and only by renorm, which needs it.
    mask : array of bool, optional
        Broadcasts against x with channel size 1; False elements enter no statistic [BN-MASK-1].
    comm : Communicator, optional
        Joins group j of all ranks into one [BN-SYNC-1].
    name : str
        The layer's name, in error texts and in what ranks compare.

    Returns
    -------
    y : array
        x's shape and dtype.
    stats : Moments
        count (G,), mean, mean_low, m2 (G, C): what `update_running` takes; ``stats.var`` is m2/count.
    saved : Saved
        What `batch_norm_vjp` and `batch_norm_jvp` take.

    Raises
    ------
    TypeError, ValueError
        For input that breaks a clause, which the text names.
    CommunicatorError
        On every rank, when the ranks do not meet in the same call [BN-SYNC-9].

    References
    ----------
    Ioffe, Szegedy 2015, algorithm 1; Ioffe 2017, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> y, stats, saved = bnspec.batch_norm(np.asarray([[1.0], [3.0]]), params, config)
    >>> y.tolist(), stats.mean.tolist(), stats.var.tolist()
    ([[-0.5], [0.5]], [[2.0]], [[1.0]])
    """
    groups = untraced(_validate.forward, x, params, config, state, mask, comm, name)
    kernels = kernels_for(x)
    if mask is None and comm is None and config.renorm is None and (fused := as_fused(kernels)):
        both = fused.normalize_by_batch(x, params.gamma, params.beta, config.epsilon, groups)
        if both is not None:
            stats, inverse, y = both
            n = array_namespace(inverse).astype(stats.count, inverse.dtype)
            static = Static(groups, config, name)
            return (
                y,
                stats,
                Saved(x, None, params.gamma, params.beta, stats.mean, stats.mean_low, inverse, n, None, None, static),
            )
    kernels, (wide,), used = widened(kernels, (x,), *params)
    local = kernels.moments(wide, groups, mask)
    stats, divisor = join_moments(local, config, comm, signature(comm, "moments", name, x, local.m2, config))
    inverse = inverse_stddev(stats.var, config.epsilon)
    r = d = None
    if config.renorm is not None:
        assert state is not None
        r, d = corrections(stats, state, config)
    scale, shift = scale_and_shift(Params(*used), inverse, stats.mean_low, r, d)
    y = narrowed(_normalize(kernels, wide, mask, stats, scale, shift, groups), x)
    saved = Saved(
        x,
        mask,
        params.gamma,
        params.beta,
        stats.mean,
        stats.mean_low,
        inverse,
        divisor,
        r,
        d,
        Static(groups, config, name),
    )
    return y, stats, saved


@on_device_of("x")
def batch_norm_inference(
    x: Array, params: Params, state: RunningState, config: BatchNormConfig, *, name: str = "batch_norm"
) -> tuple[Array, Saved]:
    """Normalize x by the running statistics: no group, no ghost, no mask, no communication [BN-INF-2].

    ::

        y = gamma * (x - mean)/sqrt(var + epsilon) + beta

    Parameters
    ----------
    x, params, config, name
        As in `batch_norm`.
    state : RunningState
        Its statistics, debiased where the averaging asks for it, are constants.

    Returns
    -------
    y : array
        x's shape and dtype.
    saved : Saved
        For the frozen derivatives: those of an affine map [BN-INF-3].

    Raises
    ------
    TypeError, ValueError
        For input that breaks a clause, which the text names.

    References
    ----------
    Ioffe, Szegedy 2015, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> state = state._replace(mean=np.asarray([1.0]), var=np.asarray([3.0]))
    >>> bnspec.batch_norm_inference(np.asarray([[5.0]]), params, state, config)[0].tolist()
    [[2.0]]
    """
    groups = untraced(_validate.inference, x, params, state, config, name)
    kernels = kernels_for(x)
    if config.averaging == "debiased":  # divided before it is rounded
        state = state._replace(mean=_widened(state.mean, x), var=_widened(state.var, x))
    mean, var = map(stop_gradient, used_statistics(state, config))
    static = Static(groups, config, name)
    if fused := as_fused(kernels):
        found = fused.normalize_by_running(x, params.gamma, params.beta, mean, var, config.epsilon, groups)
        if found is not None:
            mean, low, inverse, y = found
            return y, Saved(x, None, params.gamma, params.beta, mean, low, inverse, None, None, None, static)
    mean, var = (_widened(v, x)[None, :] for v in (mean, var))
    inverse = inverse_stddev(var, config.epsilon)
    low = array_namespace(mean).zeros_like(mean)
    scale, shift = scale_and_shift(params, inverse, low, None, None)
    y = kernels.normalize(x, mean, scale, shift, groups)
    return y, Saved(x, None, params.gamma, params.beta, mean, low, inverse, None, None, None, static)


def _widened(v: Array, x: Array) -> Array:
    return array_namespace(v).astype(v, arithmetic_dtype(x))


def _normalize(
    kernels: Kernels, x: Array, mask: Array | None, stats: Moments, scale: Array, shift: Array, groups: Groups
) -> Array:
    """Normalize; automatic differentiation takes xhat as 0 where x is masked and not finite [BN-MASK-3]."""
    centre = stats.mean
    if mask is None or not differentiated(x, scale, shift):
        return kernels.normalize(x, centre, scale, shift, groups)
    xp = array_namespace(x)
    usable = expand_mask(mask, x, groups) | xp.isfinite(x)
    y = kernels.normalize(xp.where(usable, x, xp.zeros_like(x)), centre, scale, shift, groups)
    image = kernels.normalize(x, stop_gradient(centre), stop_gradient(scale), stop_gradient(shift), groups)
    # y of an x at the mean: its derivative, added as a zero, is what the statistics and parameters see of the others.
    middle = ((stop_gradient(centre) - centre) + stop_gradient(stats.mean_low)) * scale + shift
    nothing = xp.where(xp.isfinite(middle), middle - stop_gradient(middle), xp.zeros_like(middle))
    return xp.where(usable, y, unsplit(split(image, groups) + spread(nothing, x, groups), x))
