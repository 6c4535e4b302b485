"""Updates of the running state in arrays of NumPy by compiled code: the common ones, as a new state and in place."""

import functools
from typing import Any

import numpy

from bnspec import BatchNormConfig, Moments, RunningState
from bnspec_backends.cpu.arrays import plain
from bnspec_backends.cpu.compiled import running_state
from bnspec_backends.cpu.compiled.compile_notice import notice

__all__ = ["advance", "update"]


def update(state: RunningState, stats: Moments, config: BatchNormConfig) -> RunningState | None:
    """Average one batch of one group into the state; None for rarer calls, and for values that are to be refused."""
    n = _one_count(stats.count) - config.correction if stats.m2.shape == (1, state.mean.size) else 0
    if n < 1 or config.averaging == "pooled" or config.renorm is not None or not _averaged(state, stats, config):
        return None
    old = plain(state.mean, state.mean.dtype), plain(state.var, state.var.dtype)
    new = numpy.empty_like(old[0]), numpy.empty_like(old[1])
    counter, most = None, 0
    if state.count is not None:
        counter = plain(state.count, state.count.dtype), numpy.empty(state.count.shape, state.count.dtype)
        most = int(numpy.iinfo(state.count.dtype).max)
    moments = tuple(plain(v[0]) for v in stats[1:])
    top, cumulative = _top(old[0].dtype), config.averaging == "cumulative"
    usable = running_state.step(moments, n, 1.0 - config.decay, top, old, new, counter, most, cumulative)
    notice.log()
    return RunningState(*new, None if counter is None else counter[1]) if usable else None


def advance(mean: Any, var: Any, updates: Any, stats: Moments, config: BatchNormConfig) -> bool:
    """Average one batch into a mean and a variance in place, and count it; return False, unchanged, for others.

    Parameters
    ----------
    mean, var : array
        Served are those of shape (C,) and one dtype, float32 or float64, without gaps.
    updates : array or None
        Served is one integer of 64 bits.
    stats : Moments
        Results of `operations.forward`.
    config : BatchNormConfig
    """
    n = int(stats.count[0]) - config.correction
    if n < 1 or stats.m2.shape[0] != 1 or config.averaging != "exponential" or config.renorm is not None:
        return False
    shape = stats.m2.shape[1:]
    if not (mean.dtype == var.dtype and mean.dtype.char in "fd" and mean.shape == var.shape == shape):
        return False
    counter = updates is None or (updates.dtype == numpy.int64 and updates.shape == ())
    if not (counter and all(v.flags.carray for v in (mean, var, updates) if v is not None)):
        return False
    moments, top = (stats.mean[0], stats.mean_low[0], stats.m2[0]), _top(mean.dtype)
    moved = running_state.advance(moments, n, 1.0 - config.decay, top, mean, var, updates)
    notice.log()
    return bool(moved)


def _one_count(count: Any) -> int:
    """Return the count that all channels have, of shape (1,) or (1, C); 0 where there is none."""
    flat = count.reshape(-1)
    return int(flat[0]) if flat.size and (flat.size == 1 or bool((flat == flat[0]).all())) else 0


def _averaged(state: RunningState, stats: Moments, config: BatchNormConfig) -> bool:
    """Return whether a state has the fields and dtypes that `running_state` knows."""
    mean, var, count, *others = state
    if not (stats.mean.shape == stats.mean_low.shape == stats.m2.shape and var.shape == mean.shape):
        return False
    if count is not None and count.shape != mean.shape:
        return False
    if (count is None) == config.counts_updates or any(v is not None for v in others):
        return False
    if count is not None and not (count.dtype.kind == "i" and count.dtype.isnative):
        return False
    wide = all(v.dtype == numpy.float64 and v.dtype.isnative for v in stats[1:])
    return bool(wide and mean.dtype == var.dtype and mean.dtype.isnative)


@functools.cache
def _top(dtype: Any) -> float:
    return float(numpy.finfo(dtype).max)
