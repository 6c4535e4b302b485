"""Running state after a batch of one group: one launch, a thread for each channel, and no wait of the host."""

import functools
from typing import Any

import cupy
import numpy

from bnspec import BatchNormConfig, Moments, RunningState
from bnspec._counts import remembered
from bnspec_backends.cuda import compiling
from bnspec_backends.cuda.arrays import KINDS, dense_float64
from bnspec_backends.cuda.counters import counters
from bnspec_backends.cuda.launching import UPDATE, Launcher, make_current
from bnspec_backends.cuda.plan import THREADS

__all__ = ["serves", "update"]


def serves(state: RunningState, stats: Moments, config: BatchNormConfig) -> bool:
    """Return whether the kernel takes an update: of one group whose count shapes tell, and nothing to be refused.

    A pooled average needs the count so far, and a refusal of statistics that are not finite [BN-RUN-10] their values:
    these have to be read, or are rare, as is a count that does not exceed the correction.
    """
    if config.averaging == "pooled" or config.renorm is not None or config.nonfinite == "raise":
        return False
    counts, channels = remembered(stats.count), state.mean.size
    if counts is None or len(counts) != 1 or counts[0] <= config.correction or not channels:
        return False
    if (state.count is not None) != config.counts_updates or any(v is not None for v in state[3:]):
        return False
    if state.count is not None and state.count.dtype not in (numpy.int32, numpy.int64):
        return False
    wide = all(v.shape == (1, channels) and v.dtype == numpy.float64 for v in stats[1:])
    return wide and state.mean.dtype in KINDS and state.var.dtype in KINDS


def update(state: RunningState, stats: Moments, config: BatchNormConfig) -> RunningState:
    """Return the state after a batch, for what `serves` is true of."""
    (number,), channels = remembered(stats.count) or [0], state.mean.size
    moments = [dense_float64(v, (1, channels)) for v in stats[1:]]
    new: list[Any] = [None if v is None else cupy.empty((channels,), v.dtype) for v in state[:3]]
    members: dict[str, Any] = dict.fromkeys(UPDATE.names, 0) | {
        "channels": channels,
        "divisor": number - config.correction,
        "weight": 1.0 - config.decay,
        "cumulative": config.averaging == "cumulative",
        "skip": config.nonfinite == "skip",
        "top": _top(state.var.dtype),
    }
    for name, v in zip(("mean", "low", "m2"), moments, strict=True):
        members[name] = v.data.ptr
    for name, old, made in zip(("mean", "var", "count"), state[:3], new, strict=True):
        if old is not None:
            members |= {f"old_{name}": old.data.ptr, f"old_{name}_stride": old.strides[0] // old.itemsize}
            members[f"new_{name}"] = made.data.ptr
            if name == "count":
                members["count_bytes"] = old.itemsize
            else:
                members[f"old_{name}_dtype"] = KINDS[old.dtype].number
    device = cupy.cuda.Device().id
    make_current(device)
    function = compiling.kernel("update")
    counters.launches += 1
    threads = min(THREADS, channels)
    grid = -(-channels // threads), 1
    Launcher(members, UPDATE).launch(function, grid, threads, 0, cupy.cuda.get_current_stream().ptr)
    return RunningState(*new)


@functools.cache
def _top(dtype: Any) -> float:
    return float(numpy.finfo(dtype).max)
