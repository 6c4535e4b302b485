"""Joining ranks: one message forward, one backward (SPEC.md, "Synchronization").

Forward, each rank sends (count, weight, mean, m2) of its groups and they are merged in rank order, so that
every rank ends with the same bits; backward, the gradient sums are added in the same order. What is sent
and how two of it combine is decided here; a communicator only moves arrays.

References
----------
Chan, Golub, LeVeque 1983 (merging); Peng et al., "MegDet", 2018, section 3.2 (cross-GPU batch normalization).
"""

import functools

from array_api_compat import array_namespace

from bnspec._config import BatchNormConfig
from bnspec._moments import merge_weighted
from bnspec._precision import count_dtype, dtype_name
from bnspec._protocols import Communicator, Signature
from bnspec._types import Array, Moments

__all__ = ["join_moments", "join_sums", "signature"]

# A float32 payload holds integers up to 2^24 exactly. Two lanes of 12 bits and more keep counts exact up to
# 2^36 elements on up to 4096 ranks.
_LANE = 4096


def signature(operation: str, name: str, x: Array, stats_shape: tuple[int, int], config: BatchNormConfig) -> Signature:
    """What the ranks must agree on for this collective [BN-SYNC-9]."""
    number, size = stats_shape
    return Signature(operation, name, size, number, dtype_name(x.dtype), _options(config))


@functools.lru_cache(maxsize=256)
def _options(config: BatchNormConfig) -> str:
    return config.to_json()


def join_moments(
    local: Moments, config: BatchNormConfig, comm: Communicator | None, about: Signature
) -> tuple[Moments, Array]:
    """Join the ranks' moments group by group.

    Returns
    -------
    Moments
        Of the joined groups. Under ``sync_weighting="rank"``, mean and var are those of a mixture in
        which every rank that holds elements has the same weight.
    array, shape (G,)
        What this rank divides joined gradient sums by: the joined count, or the number of such ranks
        times the local count; 1 instead of 0.
    """
    xp = array_namespace(local.m2)
    dtype = local.m2.dtype
    n = xp.astype(local.count, dtype)
    if comm is None:
        return local, n + xp.astype(n == 0, dtype)

    by_rank = config.sync_weighting == "rank"
    weight = xp.astype(n > 0, dtype) if by_rank else n
    spread = local.var if by_rank else local.m2
    high = local.count // _LANE
    lanes = [xp.astype(v, dtype)[:, None] for v in (high, local.count - high * _LANE, weight)]
    joined = comm.all_reduce(xp.concat([*lanes, local.mean, local.mean_low, spread], axis=1), _merge_payloads, about)

    lane_high, lane_low, total, mean, low, m2 = _unpack(joined)
    whole = count_dtype(xp)
    count = (xp.astype(lane_high, whole) * _LANE + xp.astype(lane_low, whole))[:, 0]
    if by_rank:
        m2 = m2 / (total + xp.astype(total == 0, dtype)) * xp.astype(count, dtype)[:, None]
    divisor = (total[:, 0] * n) if by_rank else total[:, 0]
    return Moments(count, mean, low, m2), divisor + xp.astype(divisor == 0, dtype)


def join_sums(sums: list[Array], comm: Communicator | None, about: Signature) -> list[Array]:
    """Add (G, C) arrays across ranks, in rank order, in one message."""
    if comm is None:
        return sums
    xp = array_namespace(sums[0])
    joined = comm.all_reduce(xp.stack(sums, axis=0), _add, about)
    return [joined[i, ...] for i in range(len(sums))]


def _add(a: Array, b: Array) -> Array:
    return a + b


def _unpack(payload: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    c = (payload.shape[1] - 3) // 3
    lanes = tuple(payload[:, i : i + 1] for i in range(3))
    return (*lanes, payload[:, 3 : 3 + c], payload[:, 3 + c : 3 + 2 * c], payload[:, 3 + 2 * c :])


def _merge_payloads(a: Array, b: Array) -> Array:
    high_a, low_a, *weighted_a = _unpack(a)
    high_b, low_b, *weighted_b = _unpack(b)
    merged = merge_weighted(tuple(weighted_a), tuple(weighted_b))
    lanes = [high_a + high_b, low_a + low_b, weighted_a[0] + weighted_b[0]]
    return array_namespace(a).concat([*lanes, *merged], axis=1)
