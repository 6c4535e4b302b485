"""Joining ranks: one message forward, one backward (SPEC.md, "Synchronization").

Forward, each rank sends (count, weight, mean, m2) of its groups and channels and they are merged in rank order, so that
every rank ends with the same bits; backward, the gradient sums are added in the same order. The payload and the
way in which two payloads combine are decided here; a communicator only moves arrays.

So are the derivatives of both, which are messages in their turn. With w the weight of a rank, W that of all, and g a
cotangent added over ranks, the joined ``mean = sum w*mean_r/W`` and ``m2 = sum m2_r + w*(mean_r - mean)^2`` have

    dmean_r = w/W * g_mean + 2*w*(mean_r - mean) * g_m2,    dm2_r = g_m2

A communicator never sees an array that belongs to a graph of torch, nor a tracer of JAX, unless it is `traceable`: then
its messages are operations of JAX, which differentiates them itself.

References
----------
Chan, Golub, LeVeque 1983 (merging); Peng et al., "MegDet", 2018, section 3.2 (cross-GPU batch normalization).
"""

from collections.abc import Callable, Sequence

from bnspec._arrays import array_namespace, beside, is_array, library, stop_gradient
from bnspec._communicator import Communicator, Signature
from bnspec._config import BatchNormConfig
from bnspec._dtypes import count_dtype, dtype_name
from bnspec._errors import CommunicatorError, refusal
from bnspec._modes import untraced, values
from bnspec._torch.rules import refuse_stand_ins, with_rules
from bnspec._types import Array, Moments, per_channel

__all__ = ["join_counted", "join_moments", "join_sums", "signature"]

# A float32 payload holds integers up to 2^24 exactly. Two lanes of 12 bits and more keep counts exact up to
# 2^36 elements on up to 4096 ranks.
_LANE = 4096


def signature(
    comm: Communicator | None, operation: str, name: str, x: Array, statistics: Array, config: BatchNormConfig
) -> Signature | None:
    """Return the facts that ranks must agree on for this collective [BN-SYNC-9]; None without a communicator."""
    if comm is None:
        return None
    number, size = untraced(lambda: tuple(map(int, statistics.shape)))
    return Signature(operation, name, size, number, dtype_name(x.dtype), config.text)


def join_moments(
    local: Moments,
    config: BatchNormConfig,
    comm: Communicator | None,
    about: Signature | None,
    merge: Callable[[Array, Array, int], Array],
) -> tuple[Moments, Array]:
    """Join the ranks' moments group by group.

    Parameters
    ----------
    local : Moments
        This rank's own.
    config : BatchNormConfig
        Its sync_weighting applies.
    comm : Communicator or None
        None for a rank on its own.
    about : Signature or None
        Facts that the ranks compare.
    merge : callable
        `bnspec.Kernels.merge` of the payload's library.

    Returns
    -------
    Moments
        Of the joined groups. Under ``sync_weighting="rank"``, mean and var are those of a mixture in
        which every rank that holds elements has the same weight.
    array
        Divisor of joined gradient sums on this rank, in the shape of the count: the joined count, or the number of
        such ranks times the local count; 1 instead of 0. Joined counts are (G, C), whatever this rank's mask is, for
        another rank's may have the channels' extent.
    """
    xp = array_namespace(local.m2)
    dtype = local.m2.dtype
    n = xp.astype(local.count, dtype)
    if comm is None or about is None:
        return local, n + xp.astype(n == 0, dtype)

    refuse_stand_ins(f"{about.layer}: statistics of ranks to be joined", "BN-SYNC-9", _traceable(comm), *local)
    counts = xp.broadcast_to(per_channel(local.count), local.m2.shape)
    n = xp.astype(counts, dtype)
    by_rank = config.sync_weighting == "rank"
    weight = xp.astype(n > 0, dtype) if by_rank else n
    spread = local.var if by_rank else local.m2
    sums = _added(counts, n, weight, by_rank)
    (*totals, low), mean, m2 = _merged(sums, local.mean, local.mean_low, spread, comm, about, merge)
    total, whole = totals[-1], count_dtype(xp)
    count = xp.astype(totals[0], whole)
    if len(totals) == 3:
        count = count * _LANE + xp.astype(totals[1], whole)
    if by_rank:
        m2 = m2 / (total + xp.astype(total == 0, dtype)) * xp.astype(count, dtype)
    divisor = total * n if by_rank else total
    return Moments(count, mean, low, m2), divisor + xp.astype(divisor == 0, dtype)


def join_counted(
    counts: Sequence[int],
    rows: Sequence[Array],
    comm: Communicator,
    about: Signature,
    merge: Callable[[Array, Array, int], Array],
) -> tuple[list[int], list[Array]]:
    """Join moments whose counts the host knows, so that no dtype limits how many elements there are.

    Parameters
    ----------
    counts : sequence of int
        One for each channel.
    rows : sequence of array, shape (1, C)
        mean, mean_low and m2.
    comm, about, merge
        As in `join_moments`.

    Returns
    -------
    counts, rows : list
        The same of all ranks together; counts are exact up to 2^36 elements, in float64 up to 2^53.
    """
    xp, dtype = array_namespace(rows[0]), rows[0].dtype

    def row(numbers: list[int]) -> Array:
        return xp.asarray([numbers], dtype=dtype, **beside(rows[0]))

    sums = [row([n // _LANE for n in counts]), row([n % _LANE for n in counts]), row(list(counts))]
    mean, low, m2 = rows
    (high, rest, _, low), mean, m2 = _merged(sums, mean, low, m2, comm, about, merge)
    pairs = zip(values(high) or (), values(rest) or (), strict=True)
    return [int(a) * _LANE + int(b) for a, b in pairs], [mean, low, m2]


def _merged(
    sums: list[Array],
    mean: Array,
    low: Array,
    spread: Array,
    comm: Communicator,
    about: Signature,
    merge: Callable[[Array, Array, int], Array],
) -> tuple[list[Array], Array, Array]:
    """Merge over ranks; return the added numbers with the mean's low part, the mean, and the merged spread.

    Only the mean and the spread have derivatives: the low part of a mean is what rounding left of it.
    """
    xp, added, c = array_namespace(mean), len(sums), int(spread.shape[1])
    constants: list[Array] = []

    def function(mean: Array, spread: Array) -> list[Array]:
        joined = _joined(
            xp.concat([*sums, mean, stop_gradient(low), spread], axis=1), lambda a, b: merge(a, b, added), comm, about
        )
        blocks = [joined[:, k * c : (k + 1) * c] for k in range(added + 3)]
        constants.extend([*blocks[:added], blocks[added + 1]])
        return [blocks[added], blocks[added + 2]]

    def shares() -> tuple[Array, Array]:
        weight, total = sums[-1], constants[added - 1]
        return weight, weight / (total + xp.astype(total == 0, total.dtype))

    def apart(given: Sequence[Array], results: Sequence[Array]) -> Array:
        return ((given[0] - results[0]) + (low - constants[added])) * 2.0

    def pull_back(given: Sequence[Array], results: Sequence[Array], g: Sequence[Array]) -> list[Array]:
        weight, share = shares()
        g_mean, g_spread = join_sums(list(g), comm, _derivative(about, "cotangents"))
        return [share * g_mean + weight * apart(given, results) * g_spread, g_spread]

    def push_forward(given: Sequence[Array], results: Sequence[Array], v: Sequence[Array]) -> list[Array]:
        weight, share = shares()
        dots = [share * v[0], v[1] + weight * apart(given, results) * v[0]]
        return join_sums(dots, comm, _derivative(about, "tangents"))

    mean, spread = with_rules(function, pull_back, push_forward, mean, spread)
    return constants, mean, spread


def _added(count: Array, n: Array, weight: Array, by_rank: bool) -> list[Array]:
    """Return what is added over ranks: the count, and the weight; below float64 the count takes two numbers."""
    if dtype_name(n.dtype) == "float64":
        return [n, weight] if by_rank else [n]
    xp = array_namespace(n)
    high = count // _LANE
    return [xp.astype(high, n.dtype), xp.astype(count - high * _LANE, n.dtype), weight]


def join_sums(sums: list[Array], comm: Communicator | None, about: Signature | None) -> list[Array]:
    """Add (G, C) arrays across ranks, in rank order, in one message."""
    if comm is None or about is None:
        return sums
    refuse_stand_ins(f"{about.layer}: sums of ranks to be joined", "BN-SYNC-9", _traceable(comm), *sums)
    xp = array_namespace(sums[0])

    def function(stacked: Array) -> list[Array]:
        return [_joined(stacked, _add, comm, about)]

    def again(kind: str) -> Callable[..., list[Array]]:  # a sum over ranks is its own derivative, in both modes
        derived = _derivative(about, kind)
        return lambda given, results, v: [xp.stack(join_sums([v[0][i, ...] for i in range(len(sums))], comm, derived))]

    (joined,) = with_rules(function, again("cotangents"), again("tangents"), xp.stack(sums, axis=0))
    return [joined[i, ...] for i in range(len(sums))]


def _derivative(about: Signature, kind: str) -> Signature:
    """Return the facts of the message that a derivative of a message is; no other message has its operation."""
    return about._replace(operation=f"{kind} of {about.operation}")


def _traceable(comm: Communicator) -> bool:
    """Return whether a communicator says that its messages are operations of JAX."""
    return bool(getattr(comm, "traceable", False))


def _joined(payload: Array, combine: Callable[[Array, Array], Array], comm: Communicator, about: Signature) -> Array:
    """Ask a communicator, and refuse an answer that is not what was sent joined: it may be anybody's."""
    joined = comm.all_reduce(payload, combine, about)
    same = is_array(joined) and library(joined) == library(payload)
    if not same or joined.shape != payload.shape or joined.dtype != payload.dtype:
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"{about.layer}: the communicator returned {getattr(joined, 'dtype', type(joined).__name__)} of shape "
            f"{tuple(getattr(joined, 'shape', ()))}",
            expected=f"{payload.dtype} of shape {tuple(payload.shape)}, as it was sent",
            do="all_reduce returns the ranks' payloads combined, in the library of the payload.",
        )
    return joined


def _add(a: Array, b: Array) -> Array:
    return a + b
