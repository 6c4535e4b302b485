"""Normalization by batch statistics and by running statistics: the two forward operations.

Each checks its arguments and hands them to the kernels of the array's library. There is no training flag: normalizing
by the batch, normalizing by the running state and updating that state are three functions, and the options of a layer
are ways to compose them.
"""

import functools

from bnspec._arrays import array_namespace, on_device_of, stop_gradient
from bnspec._checks import arguments
from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig
from bnspec._discovery import kernels_for
from bnspec._dtypes import arithmetic_dtype
from bnspec._kernels import Kernels
from bnspec._masks import mask_of
from bnspec._modes import exporting, recording, untraced
from bnspec._running import used_statistics
from bnspec._schedule import Schedule, scheduled
from bnspec._types import Array, Moments, Params, RunningState, Saved, Static

__all__ = ["batch_norm", "batch_norm_inference"]


@on_device_of("x")
def batch_norm(
    x: Array,
    params: Params,
    config: BatchNormConfig,
    *,
    state: RunningState | None = None,
    mask: Array | None = None,
    lengths: Array | None = None,
    comm: Communicator | None = None,
    schedule: Schedule | None = None,
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
        Options of the computation.
    state : RunningState, optional
        Only read, and only by renorm, which needs it.
    mask : array of bool, optional
        Broadcasts against x, of x's rank or without the channel axis; False elements enter no statistic [BN-MASK-1].
        Where its extent along the channel axis is C, each channel has a count of its own [BN-MASK-8].
    lengths : array of int, shape (N,), optional
        Instead of a mask: of sample i only the first ``lengths[i]`` elements count, along the first axis that holds
        neither samples nor channels [BN-MASK-9].
    comm : Communicator, optional
        Joins group j of all ranks into one [BN-SYNC-1].
    schedule : Schedule, optional
        Limits of renorm for this call, in the place of the configuration's; numbers or arrays [BN-RENORM-9].
    name : str
        The layer's name, in error texts and in what ranks compare.

    Returns
    -------
    y : array
        x's shape and dtype.
    stats : Moments
        count (G,), or (G, C) with a mask of the channels' own or across ranks, mean, mean_low, m2 (G, C): what
        `update_running` takes; ``stats.var`` is m2/count.
    saved : Saved
        Argument of `batch_norm_vjp` and `batch_norm_jvp`.

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
    if recording(x):
        from bnspec._torch import calls

        calls.no_schedule(schedule, name)
        return calls.batch_norm(x, params, config, state=state, mask=mask, lengths=lengths, comm=comm, name=name)
    groups = untraced(arguments.forward, x, params, config, state, mask, lengths, comm, name)
    if config.virtual_batch_size is not None and exporting(x):
        x = _of_these_samples(x)
    mask = mask_of(x, groups.axis, mask, lengths)
    used, known = scheduled(config, schedule, x, arithmetic_dtype(x), name)
    kernels = kernels_for(x)
    forward = kernels.forward if known else functools.partial(Kernels.forward, kernels)  # it alone takes arrays there
    stats, done = forward(x, params, used, groups, state=state, mask=mask, comm=comm, name=name)
    return done.y, stats, Saved.of(x, mask, params, done, Static(groups, config, name))


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
    if recording(x) or exporting(x):
        from bnspec._torch import calls

        return calls.batch_norm_inference(x, params, state, config, name=name)
    groups = untraced(arguments.inference, x, params, state, config, name)
    if config.averaging == "debiased":  # divided before it is rounded
        xp, dtype = array_namespace(state.mean), arithmetic_dtype(x)
        state = state._replace(mean=xp.astype(state.mean, dtype), var=xp.astype(state.var, dtype))
    mean, var = map(stop_gradient, used_statistics(state, config))
    done = kernels_for(x).infer(x, params, mean, var, config.epsilon, groups)
    return done.y, Saved.of(x, None, params, done, Static(groups, config, name, frozen=True))


def _of_these_samples(x: Array) -> Array:
    """Return x such that a traced graph refuses batches of another size: the number of groups is a constant in it."""
    samples = untraced(lambda: int(x.shape[0]))
    return array_namespace(x).reshape(x, (samples, *x.shape[1:]))
