"""Batch renormalization: corrections that make a batch's statistics agree with the reference (SPEC.md).

    sigma = sqrt(var + epsilon),  s = max(reference deviation, sqrt(epsilon))
    r = _clip(sigma / s, 1/rmax, rmax),   d = _clip((mean - reference mean) / s, -dmax, dmax)
    y = gamma * (xhat*r + d) + beta

r and d are constants to the gradient. The reference is the state *before* this step's update.

References
----------
Ioffe, "Batch Renormalization", 2017, algorithm 1; its "tensorpack" form with a reference of its own is
the one of TensorFlow 1's batch_normalization layer.
"""

import math

from bnspec._arrays import array_namespace, stop_gradient
from bnspec._config import BatchNormConfig
from bnspec._types import Array, Moments, RunningState

__all__ = ["corrections", "reference"]


def reference(state: RunningState, config: BatchNormConfig) -> tuple[Array, Array]:
    """Return the reference mean and deviation, shape (C,), that the configured form reads."""
    assert config.renorm is not None
    if config.renorm.form == "paper":
        return state.mean, state.stddev
    return state.renorm_mean, state.renorm_stddev


def corrections(stats: Moments, state: RunningState, config: BatchNormConfig) -> tuple[Array, Array]:
    """Return r and d, shape (G, C), of each group against the one state [BN-RENORM-1, BN-RENORM-8].

    Examples
    --------
    >>> import numpy as np
    >>> from bnspec import Renorm
    >>> stats = Moments(np.asarray([4]), np.asarray([[1.0]]), np.asarray([[0.0]]), np.asarray([[16.0]]))
    >>> state = RunningState(np.zeros(1), np.ones(1), stddev=np.ones(1))
    >>> config = BatchNormConfig(axis=1, epsilon=1e-9, decay=0.9, correction=0,
    ...                          renorm=Renorm(form="paper", rmax=1.5, dmax=5.0))
    >>> [v.tolist() for v in corrections(stats, state, config)]
    [[[1.5]], [[1.0]]]
    """
    assert config.renorm is not None
    xp = array_namespace(stats.m2)
    mean, stddev = (xp.astype(v, stats.m2.dtype)[None, :] for v in reference(state, config))
    floor = math.sqrt(config.epsilon)
    s = xp.where(stddev < floor, xp.full_like(stddev, floor), stddev)
    r = _clip(xp.sqrt(stats.var + config.epsilon) / s, 1.0 / config.renorm.rmax, config.renorm.rmax)
    d = _clip(((stats.mean - mean) + stats.mean_low) / s, -config.renorm.dmax, config.renorm.dmax)
    return stop_gradient(r), stop_gradient(d)


def _clip(v: Array, low: float | Array, high: float | Array) -> Array:
    """Limit v to [low, high]; NaN stays NaN, so that a bad channel shows, and so does a limit that is NaN."""
    xp = array_namespace(v)
    if isinstance(low, float) and isinstance(high, float):
        v = xp.where(v < low, xp.full_like(v, low), v)
        return xp.where(v > high, xp.full_like(v, high), v)
    low, high = xp.zeros_like(v) + low, xp.zeros_like(v) + high
    v = xp.where((v < low) | (low != low), low, v)
    return xp.where((v > high) | (high != high), high, v)
