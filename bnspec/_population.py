"""Moments of one population as a row, shape (1, 4*C): how they are gathered, joined over ranks, and remembered.

The row holds count, mean, mean_low and m2 in the arithmetic dtype. The counts are kept as integers of Python beside it:
no dtype of a library holds the number of elements of any number of batches, and int32 is all that JAX may have.
"""

import functools
from collections.abc import Callable
from typing import Any

from bnspec._arrays import array_namespace, beside, on_device_of
from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig
from bnspec._counts import counts_of
from bnspec._discovery import kernels_for
from bnspec._errors import refusal
from bnspec._init import init
from bnspec._modes import values
from bnspec._moments import rows_of
from bnspec._running import finite_channels, refuse_not_finite, share_of
from bnspec._sync import join_counted, signature
from bnspec._types import Array, Moments, RunningState

__all__ = ["finite_or_out", "joined_groups", "no_elements", "one_each", "state_of"]


def joined_groups(stats: Moments, merge: Callable[[Array, Array, int], Array]) -> tuple[list[int], Array]:
    """Return the counts of all groups together, and their moments as one row of count, mean, mean_low and m2."""
    xp, dtype = array_namespace(stats.m2), stats.m2.dtype
    number, c = map(int, stats.m2.shape)
    columns = 1 if stats.count.ndim == 1 else c
    known = counts_of(stats.count) or []
    counts = [sum(known[k::columns]) for k in range(columns)]
    rows = rows_of(stats)
    if number == 0:
        return counts, xp.zeros((1, 4 * c), dtype=dtype, **beside(rows))
    return counts, functools.reduce(lambda a, b: merge(a, b, 1), [rows[j : j + 1, :] for j in range(number)])


def finite_or_out(
    counts: list[int], row: Array, dtype: Any, config: BatchNormConfig, name: str
) -> tuple[list[int], Array]:
    """Refuse a batch with statistics that are not finite, or leave such channels out [BN-RUN-10]."""
    xp, c = array_namespace(row), int(row.shape[1]) // 4
    n, mean, _, m2 = (row[0, k * c : (k + 1) * c] for k in range(4))
    divisor = xp.where(n > config.correction, n - config.correction, xp.ones_like(n))
    usable = finite_channels(mean, m2, m2 / divisor, dtype)
    if config.nonfinite == "raise":
        refuse_not_finite(usable, name)
        return counts, row
    kept = [n if ok else 0 for n, ok in zip(one_each(counts, c), values(usable) or (), strict=True)]
    return kept, xp.where(xp.concat([usable] * 4)[None, :], row, xp.zeros_like(row))


def one_each(counts: list[int], channels: int) -> list[int]:
    """Return one count for each channel."""
    return counts if len(counts) == channels else counts * channels


@on_device_of("row")
def state_of(
    row: Array,
    counts: list[int],
    updates: int,
    like: Array,
    config: BatchNormConfig,
    comm: Communicator | None,
    name: str,
) -> RunningState:
    """Return the state of the elements of all ranks."""
    xp, c = array_namespace(row), int(row.shape[1]) // 4
    counts = one_each(counts, c)
    mean, low, m2 = (row[:, k * c : (k + 1) * c] for k in (1, 2, 3))
    about = signature(comm, "population", name, like, m2, config)
    if comm is not None and about is not None:
        # The number of batches travels as the count of one more channel, whose moments are 0.
        rows = [xp.concat([v, xp.zeros_like(v[:, :1])], axis=1) for v in (mean, low, m2)]
        joined, rows = join_counted([*counts, updates], rows, comm, about, kernels_for(m2).merge)
        *counts, updates = joined
        mean, low, m2 = (v[:, :c] for v in rows)
    if absent := [k for k, n in enumerate(counts) if n == 0]:
        raise no_elements(name, "no element" + (f" in channels {absent}" if any(counts) else ""))
    if config.single_value != "floor" and (few := [k for k, n in enumerate(counts) if n <= config.correction]):
        raise refusal(
            ValueError,
            "BN-RUN-4",
            got=f"{name}: precise statistics of {counts[few[0]]} element in channels {few}",
            expected=f"more than {config.correction} for correction={config.correction}",
            do='Use more data, correction=0, or single_value="floor"; there is no older variance to keep.',
        )
    divisor = xp.asarray([max(n - config.correction, 1) for n in counts], dtype=m2.dtype, **beside(m2))
    return _remembered((mean + low)[0, :], m2[0, :] / divisor, counts, updates, like, config)


def _remembered(
    mean: Array, var: Array, counts: list[int], updates: int, like: Array, config: BatchNormConfig
) -> RunningState:
    """Return the state, in the form of the configuration, of statistics of shape (C,)."""
    xp = array_namespace(mean)
    _, state = init(config, channels=len(counts), like=like)
    share = share_of(config.decay, updates) if config.averaging == "debiased" else 1.0
    sigma = xp.sqrt(var + config.epsilon)
    found = {"mean": mean * share, "var": var * share, "stddev": sigma, "renorm_mean": mean, "renorm_stddev": sigma}
    if state.count is not None:
        top = int(xp.iinfo(state.count.dtype).max)  # where a counter stops [BN-RUN-13]
        numbers = [min(n, top) for n in counts] if config.averaging == "pooled" else [updates] * len(counts)
        found["count"] = xp.asarray(numbers, dtype=state.count.dtype, **beside(mean))
    given = state._asdict()
    return state._replace(**{k: xp.astype(v, given[k].dtype) for k, v in found.items() if given[k] is not None})


def no_elements(name: str, got: str) -> Exception:
    """Return the refusal of statistics of nothing."""
    return refusal(
        ValueError,
        "BN-RUN-9",
        got=f"{name}: precise statistics of {got}",
        expected="at least one element in each channel",
        do="Update with a batch before; look at the mask, and under ranks at how many batches each one had.",
    )
