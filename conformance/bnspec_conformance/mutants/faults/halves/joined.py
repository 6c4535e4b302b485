"""Mutants of ranks where they meet weights, masks of the channels' own, renorm, masked ranks and further messages."""

from typing import Any

import numpy as np

from bnspec import Moments, Saved, update_running
from bnspec._derivatives import batch_norm_tangents
from bnspec._sync import join_sums, signature
from bnspec._types import per_channel
from bnspec_conformance.mutants.cotangents import batch_only, live
from bnspec_conformance.mutants.faults.sync import same_facts
from bnspec_conformance.mutants.faults.values.moments import without_distance
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import inside, override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _own_count(saved: Saved) -> Any:
    """Return how many elements a rank itself has in each group and channel, 1 instead of 0."""
    groups, shape = saved.static.groups, saved.x.shape
    each = np.reshape(np.moveaxis(live(saved), groups.axis, -1), (groups.number, -1, shape[groups.axis]))
    return np.maximum(each.sum(axis=1), 1).astype("float64")


def _divided_by_its_own(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    if more.get("comm") is None or not saved.x.size or saved.static.config.sync_weighting != "count":
        return original(dy, saved, **more)
    return original(dy, saved._replace(divisor=_own_count(saved)), **more)


def _by_count_backward(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    stats, done = original(x, params, config, groups, **more)
    if more.get("comm") is not None and config.sync_weighting == "rank":
        done = done._replace(divisor=np.maximum(stats.count, 1).astype("float64"))
    return stats, done


def _no_distance_by_rank(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    if more.get("comm") is None or config.sync_weighting != "rank":
        return original(x, params, config, groups, **more)
    return inside(merge=without_distance)(original, x, params, config, groups, **more)


def _cotangents_times_ranks(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    """Divide the cotangents of the statistics by the rank's own count, and not by the number of ranks besides."""
    if more.get("comm") is None or saved.static.config.sync_weighting != "rank" or saved.divisor is None:
        return original(dy, saved, **more)
    ranks = per_channel(saved.divisor) / _own_count(saved)
    new = {name: more[name] * ranks for name in ("dmean", "dvar") if more.get(name) is not None}
    return original(dy, saved, **(more | new))


def _any_channel_weighs(original: Any, a: Any, b: Any, added: int) -> Any:
    """Merge ranks that weigh in a channel if they have elements in any."""
    if added == 2:
        a, b = np.array(a), np.array(b)
        c = a.shape[1] // 5
        for rows in (a, b):
            rows[:, c : 2 * c] = rows[:, c : 2 * c].max(axis=1, keepdims=True, initial=0.0)
    return original(a, b, added)


def _masked_rank_sends_nothing(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    if more.get("comm") is None or saved.mask is None or np.any(saved.mask):
        return original(dy, saved, **more)
    original(dy * dy.dtype.type(0), saved, **more)
    return original(dy, saved)


def _counts_of_the_first_group(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    stats, done = original(x, params, config, groups, **more)
    mask = more.get("mask")
    if more.get("comm") is None or mask is None or mask.shape[groups.axis] == 1 or len(stats.count) < 2:
        return stats, done
    return stats._replace(count=np.broadcast_to(stats.count[:1], stats.count.shape).copy()), done


def _cotangents_apart(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    """Send the sums of g, and the cotangents of the statistics in a message of their own."""
    if more.get("comm") is not None and more.get("dmean") is not None:
        original(dy, saved, comm=more["comm"])
    return original(dy, saved, **more)


def _tangents_twice(original: Any, *given: Any, **named: Any) -> Any:
    original(*given, **named)
    return original(*given, **named)


def _silent_backward(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    return original(dy, saved, **(more if saved.x.size else more | {"comm": None}))


def _frozen_sends(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    comm = more.get("comm")
    if comm is not None and saved.frozen:
        static = saved.static
        about = signature(comm, "gradients", static.name, saved.x, saved.centre, static.config)
        join_sums([saved.centre], comm, about)
    return original(dy, saved, **more)


def _state_averaged(original: Any, state: Any, stats: Moments, config: Any, **named: Any) -> Any:
    """Average the new mean over the ranks, which is the same number again where all have joined statistics."""
    from bnspec_backends.ranks import threads

    new = original(state, stats, config, **named)
    try:
        comm = threads.current()
    except RuntimeError:
        return new
    row = new.mean.astype("float64")[None, :]
    about = signature(comm, "moments", "update", new.mean, row, config)
    mean = join_sums([row], comm, about)[0][0, :] / comm.size
    return new._replace(mean=mean.astype(new.mean.dtype))


MUTANTS = (
    Mutant(
        name="dx-divided-by-the-rank",
        clause="BN-SYNC-6",
        row="D15",
        breaks="Divides the joined sums of dx by the rank's own count.",
        apply=batch_only(_divided_by_its_own),
    ),
    Mutant(
        name="dx-by-count-under-rank",
        clause="BN-SYNC-8",
        row="D15",
        breaks="Weighs ranks alike in the statistics and by their counts in dx.",
        apply=override(forward=_by_count_backward),
    ),
    Mutant(
        name="variance-of-ranks-without-distance",
        clause="BN-SYNC-8",
        row="D15",
        breaks="Averages the variances of ranks that weigh alike and drops what lies between their means.",
        apply=override(forward=_no_distance_by_rank),
    ),
    Mutant(
        name="cotangents-not-shared-by-ranks",
        clause="BN-SYNC-8",
        row="D15",
        breaks="Divides joined cotangents of the statistics by the rank's count and not by the number of ranks too.",
        apply=batch_only(_cotangents_times_ranks),
    ),
    Mutant(
        name="rank-weighs-in-every-channel",
        clause="BN-MASK-8",
        row="D15",
        breaks="Gives a rank that has elements of one channel the weight of the others in all channels.",
        apply=override(merge=_any_channel_weighs),
    ),
    Mutant(
        name="masked-rank-without-gradients",
        clause="BN-SYNC-3",
        row="D14",
        breaks="Sends zeros in place of the gradient sums of a rank whose elements are all masked.",
        apply=batch_only(_masked_rank_sends_nothing),
    ),
    Mutant(
        name="counts-of-the-first-group",
        clause="BN-MASK-8",
        breaks="Returns the first ghost group's counts of channels for all groups where ranks are joined.",
        apply=override(forward=_counts_of_the_first_group),
    ),
    Mutant(
        name="cotangents-in-a-message-apart",
        clause="BN-SYNC-11",
        breaks="Sends the cotangents of the statistics in a second message.",
        apply=batch_only(_cotangents_apart),
    ),
    Mutant(
        name="two-messages-of-tangents",
        clause="BN-SYNC-11",
        breaks="Sends two messages per jvp.",
        apply=wrap(batch_norm_tangents, _tangents_twice),
    ),
    Mutant(
        name="empty-rank-silent-backward",
        clause="BN-SYNC-11",
        row="D10",
        breaks="Sends no gradient sums from a rank without elements.",
        apply=batch_only(_silent_backward),
    ),
    Mutant(
        name="frozen-gradients-communicate",
        clause="BN-SYNC-10",
        breaks="Sends a message for frozen gradients, which need none.",
        apply=override(pull_back=_frozen_sends),
    ),
    Mutant(
        name="update-communicates",
        clause="BN-SYNC-10",
        row="D21",
        breaks="Averages the new running mean over the ranks, which have it already.",
        apply=wrap(update_running, _state_averaged),
    ),
    Mutant(
        name="operations-not-compared",
        clause="BN-SYNC-9",
        breaks="Joins ranks of which one is in its forward and another in its backward pass.",
        apply=same_facts(operation="step"),
    ),
    Mutant(
        name="dtypes-not-compared",
        clause="BN-SYNC-9",
        row="D28",
        breaks="Joins ranks whose x have different dtypes.",
        apply=same_facts(dtype="any"),
    ),
)
