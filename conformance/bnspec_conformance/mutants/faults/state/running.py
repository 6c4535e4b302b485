"""Mutants of the running statistics: weights, corrections, counters, and what feeds them."""

import math
from typing import Any

import numpy as np

from bnspec import Moments, RunningState, update_running
from bnspec._checks.elements import _has_negative
from bnspec._init import init
from bnspec._running import used_statistics
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import (
    configured,
    feeding_empty,
    from_update,
    full,
    taken_as,
    with_new,
    with_stats,
)

__all__ = ["MUTANTS"]


def _pooled(config: Any) -> bool:
    return bool(config.averaging == "pooled")


def _zero_variance(original: Any, *given: Any, **named: Any) -> Any:
    params, state = original(*given, **named)
    return params, state._replace(var=state.var * 0)


def _into_state(original: Any, state: Any, *rest: Any, **named: Any) -> Any:
    new = original(state, *rest, **named)
    state.mean[...] = new.mean
    return new


def _zero_divisor(stats: Moments, config: Any) -> Moments | None:
    if not config.correction or config.single_value != "floor":
        return None
    return stats._replace(m2=stats.m2 / (stats.count != config.correction)[:, None])


def _off_by_one(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    if config.averaging != "cumulative":
        return original(state, stats, config, **named)
    new = original(state._replace(count=state.count + 1), stats, config, **named)
    return new._replace(count=new.count - 1)


def _exponential(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    right = original(state, stats, config, **named)
    other = configured(lambda config: config.averaging == "cumulative", averaging="exponential")
    return other(original, state, stats, config, **named)._replace(count=right.count)


def _as_many(state: RunningState, stats: Moments, config: Any) -> tuple[RunningState, Moments]:
    """Let as many elements have been seen as the batch has, if there were any."""
    return state._replace(count=np.where(state.count == 0, state.count, stats.count[0])), stats


def _at_its_mean(state: RunningState, stats: Moments, config: Any) -> tuple[RunningState, Moments]:
    return state._replace(mean=(stats.mean + stats.mean_low)[0].astype(state.mean.dtype)), stats


def _uncorrected_by_the_batch(state: RunningState, stats: Moments, config: Any) -> tuple[RunningState, Moments]:
    seen, n = state.count.astype("float64"), stats.count[0]
    undone = (n - config.correction) * (seen / n) / np.maximum(seen - config.correction, 1)
    return state._replace(var=(state.var * undone).astype(state.var.dtype)), stats


def _deviations(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    right = original(state, stats, config, **named)
    if config.averaging == "pooled" or not full(stats):
        return right
    divisor = np.maximum(stats.count - config.correction, 1)[:, None]
    stats = stats._replace(m2=np.sqrt(stats.m2 * divisor))
    return right._replace(var=original(state._replace(var=np.sqrt(state.var)), stats, config, **named).var ** 2)


def _later_exponent(original: Any, state: RunningState, config: Any) -> Any:
    if config.averaging == "debiased":
        state = state._replace(count=state.count + (state.count > 0))
    return original(state, config)


def _power_as_written(original: Any, state: RunningState, config: Any) -> Any:
    mean, var = original(state, config)
    if config.averaging == "debiased":
        right, written = (np.where(state.count, share, 1.0) for share in (
            -np.expm1(state.count * np.log(config.decay)), 1.0 - np.power(config.decay, state.count)
        ))  # fmt: skip
        mean, var = mean * (right / written), var * (right / written)
    return mean, var


def _from_one(original: Any, state: RunningState, config: Any) -> Any:
    if config.averaging == "debiased":
        state = state._replace(var=state.var + np.asarray(config.decay**state.count, state.var.dtype))
    return original(state, config)


def _empty_counts(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if stats.count.any() or not config.counts_updates or config.averaging == "pooled":
        return new
    return new._replace(count=new.count + 1)


def _all_channels_skipped(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    finite = np.isfinite(stats.mean).all() and np.isfinite(stats.m2).all()
    return new if finite or config.nonfinite != "skip" else old


def _plus(new: RunningState, mean: Any, var: Any) -> RunningState:
    """Add numbers that are 0, or NaN."""
    return new._replace(mean=(new.mean + mean).astype(new.mean.dtype), var=(new.var + var).astype(new.var.dtype))


def _old_stays(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.averaging != "exponential" or config.decay != 0:
        return new
    return _plus(new, 0 * old.mean, 0 * old.var)


def _batch_enters(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.averaging != "exponential" or config.decay != 1 or config.nonfinite == "skip" or not full(stats):
        return new
    return _plus(new, 0 * stats.mean[0], 0 * stats.m2[0])


def _wrapped(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if old.count is None or not stats.count.any():
        return new
    by = int(stats.count.sum()) if _pooled(config) else 1
    top = np.iinfo(new.count.dtype).max
    return new._replace(count=np.where(new.count == top, old.count + np.asarray(by, old.count.dtype), new.count))


def _batches_counted(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    return new._replace(count=old.count + (new.count > old.count)) if _pooled(config) else new


MUTANTS = (
    Mutant(
        name="decay-inverted",
        clause="BN-RUN-1",
        row="D1",
        breaks="Gives the new batch the weight decay.",
        apply=override(
            update=configured(lambda config: config.averaging == "exponential", decay=lambda config: 1.0 - config.decay)
        ),
    ),
    Mutant(
        name="fresh-variance-zero",
        clause="BN-RUN-2",
        row="D9",
        breaks="Starts the running variance at 0.",
        apply=wrap(init, _zero_variance),
    ),
    Mutant(
        name="correction-swapped",
        clause="BN-RUN-3",
        row="D2",
        breaks="Corrects the running variance where correction is 0 and not where it is 1.",
        apply=override(
            update=configured(lambda config: True, correction=lambda c: 1 - c.correction, single_value="floor")
        ),
    ),
    Mutant(
        name="correction-ignored",
        clause="BN-RUN-3",
        row="D2",
        breaks="Feeds the population variance whatever the correction.",
        apply=override(update=configured(lambda config: True, correction=0)),
    ),
    Mutant(
        name="one-value-not-refused",
        clause="BN-RUN-4",
        row="D3",
        breaks="Takes one value with correction 1 although it is to be refused, with divisor 1.",
        apply=taken_as("single_value", "raise", "floor"),
    ),
    Mutant(
        name="one-value-divided-by-zero-in-the-state",
        clause="BN-RUN-4",
        row="D3",
        breaks="Divides by n - 1 = 0 where one value is to be divided by 1.",
        apply=with_stats(_zero_divisor),
    ),
    Mutant(
        name="one-value-not-kept",
        clause="BN-RUN-4",
        row="D3",
        breaks='Treats single_value="keep" like "floor".',
        apply=taken_as("single_value", "keep", "floor"),
    ),
    Mutant(
        name="cumulative-off-by-one",
        clause="BN-RUN-5",
        breaks="Weighs the batch by 1/(t + 2) in a cumulative average.",
        apply=override(update=_off_by_one),
    ),
    Mutant(
        name="cumulative-is-exponential",
        clause="BN-RUN-5",
        row="D1",
        breaks="Averages exponentially where a cumulative average is asked for.",
        apply=override(update=_exponential),
    ),
    Mutant(
        name="pooled-by-batches",
        clause="BN-RUN-6",
        row="D23",
        breaks="Pools batches with equal weight, whatever their counts.",
        apply=from_update(("mean", "var"), _pooled, _as_many),
    ),
    Mutant(
        name="pooled-without-distance",
        clause="BN-RUN-6",
        row="D8",
        breaks="Pools variances and drops what lies between the means.",
        apply=from_update(("var",), _pooled, _at_its_mean),
    ),
    Mutant(
        name="pooled-undoes-another-correction",
        clause="BN-RUN-6",
        row="D24",
        breaks="Undoes the correction of the old variance with the count of the new batch.",
        apply=from_update(("var",), _pooled, _uncorrected_by_the_batch),
    ),
    Mutant(
        name="debiased-exponent",
        clause="BN-RUN-7",
        row="D9",
        breaks="Debiases by 1 - decay^(t + 1).",
        apply=wrap(used_statistics, _later_exponent),
    ),
    Mutant(
        name="debiased-by-a-difference",
        clause="BN-RUN-7",
        row="D9",
        breaks="Computes 1 - decay^t as it is written, which cancels where decay is close to 1.",
        apply=wrap(used_statistics, _power_as_written),
    ),
    Mutant(
        name="debiased-from-one",
        clause="BN-RUN-7",
        row="D9",
        breaks="Starts a debiased variance at 1 and divides by 1 - decay^t all the same.",
        apply=wrap(used_statistics, _from_one),
    ),
    Mutant(
        name="never-debiased",
        clause="BN-RUN-7",
        row="D9",
        breaks="Uses the biased sums as they are.",
        apply=wrap(used_statistics, lambda original, state, config: (state.mean, state.var)),
    ),
    Mutant(
        name="empty-batch-counts",
        clause="BN-RUN-9",
        row="D10",
        breaks="Leaves the statistics for count 0 but counts the update.",
        apply=with_new(_empty_counts),
    ),
    Mutant(
        name="empty-batch-feeds-zeros",
        clause="BN-RUN-9",
        row="D10",
        breaks="Feeds mean 0 and variance 0 for a batch without elements.",
        apply=feeding_empty(0.0),
    ),
    Mutant(
        name="empty-batch-feeds-nan",
        clause="BN-RUN-9",
        row="D10",
        breaks="Feeds 0/0 for a batch without elements.",
        apply=feeding_empty(math.nan),
    ),
    Mutant(
        name="nonfinite-not-skipped",
        clause="BN-RUN-10",
        row="D17",
        breaks='Lets NaN into the state although nonfinite="skip".',
        apply=taken_as("nonfinite", "skip", "propagate"),
    ),
    Mutant(
        name="nonfinite-skips-all-channels",
        clause="BN-RUN-10",
        row="D17",
        breaks="Skips the update of every channel for a bad value in one.",
        apply=with_new(_all_channels_skipped),
    ),
    Mutant(
        name="nonfinite-raise-is-silent",
        clause="BN-RUN-10",
        row="D17",
        breaks='Goes on with NaN although nonfinite="raise".',
        apply=taken_as("nonfinite", "raise", "propagate"),
    ),
    Mutant(
        name="weight-one-blends",
        clause="BN-RUN-11",
        row="D17",
        breaks="Computes old + 1*(batch - old) for weight 1, so that an old NaN never leaves.",
        apply=with_new(_old_stays),
    ),
    Mutant(
        name="weight-zero-blends",
        clause="BN-RUN-11",
        row="D17",
        breaks="Computes old + 0*(batch - old) for weight 0, so that NaN enters.",
        apply=with_new(_batch_enters),
    ),
    Mutant(
        name="state-in-place",
        clause="BN-RUN-12",
        breaks="Writes the new mean into the old state.",
        apply=wrap(update_running, _into_state),
    ),
    Mutant(
        name="counter-wraps",
        clause="BN-RUN-13",
        breaks="Lets the counter wrap around at its largest value.",
        apply=with_new(_wrapped),
    ),
    Mutant(
        name="variance-below-zero",
        clause="BN-RUN-14",
        breaks="Takes a running variance below 0, whose root is NaN.",
        apply=wrap(_has_negative, lambda original, v: False),
    ),
    Mutant(
        name="counter-of-batches",
        clause="BN-RUN-6",
        row="D23",
        breaks="Counts batches where a pooled state counts elements.",
        apply=with_new(_batches_counted),
    ),
    Mutant(
        name="deviation-averaged",
        clause="BN-RUN-1",
        row="D22",
        breaks="Averages deviations and keeps the square of the average.",
        apply=override(update=_deviations),
    ),
)
