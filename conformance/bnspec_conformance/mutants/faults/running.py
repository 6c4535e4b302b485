"""Mutants of the running statistics: weights, corrections, counters, and what feeds them."""

from typing import Any

from bnspec._init import init
from bnspec._running import (
    _check_counts,
    _count_up,
    _feed_of,
    _move,
    _pool,
    _step,
    _weight,
    used_statistics,
)
from bnspec._update import update_running
from bnspec._values import _has_negative
from bnspec_conformance.mutants.mutant import Mutant, edit, wrap

__all__ = ["MUTANTS"]

_N = "n = count - config.correction"
_TAKE = "take = feed.count > 0"


def _into_state(original: Any, state: Any, *rest: Any, **named: Any) -> Any:
    new = original(state, *rest, **named)
    state.mean[...] = new.mean
    return new


MUTANTS = (
    Mutant(
        name="decay-inverted",
        clause="BN-RUN-1",
        row="D1",
        breaks="Gives the new batch the weight decay.",
        apply=edit(_weight, "return 1.0 - config.decay", "return float(config.decay)"),
    ),
    Mutant(
        name="fresh-variance-zero",
        clause="BN-RUN-2",
        row="D9",
        breaks="Starts the running variance at 0.",
        apply=edit(init, 'zeros() if config.averaging == "debiased" else ones()', "zeros()"),
    ),
    Mutant(
        name="correction-swapped",
        clause="BN-RUN-3",
        row="D2",
        breaks="Corrects the running variance where correction is 0 and not where it is 1.",
        apply=edit(_feed_of, _N, "n = count - (1 - config.correction)"),
    ),
    Mutant(
        name="correction-ignored",
        clause="BN-RUN-3",
        row="D2",
        breaks="Feeds the population variance whatever the correction.",
        apply=edit(_feed_of, _N, "n = count - 0 * config.correction"),
    ),
    Mutant(
        name="one-value-not-refused",
        clause="BN-RUN-4",
        row="D3",
        breaks="Takes one value with correction 1 although it is to be refused, with divisor 1.",
        apply=wrap(_check_counts, lambda original, *arguments: None),
    ),
    Mutant(
        name="one-value-divided-by-zero-in-the-state",
        clause="BN-RUN-4",
        row="D3",
        breaks="Divides by n - 1 = 0 where one value is to be divided by 1.",
        apply=edit(_feed_of, "divisor = xp.where(n < 1, xp.ones_like(n), n)", "divisor = n"),
    ),
    Mutant(
        name="one-value-not-kept",
        clause="BN-RUN-4",
        row="D3",
        breaks='Treats single_value="keep" like "floor".',
        apply=edit(_feed_of, 'and config.single_value == "keep" else', 'and config.single_value == "hold" else'),
    ),
    Mutant(
        name="cumulative-off-by-one",
        clause="BN-RUN-5",
        breaks="Weighs the batch by 1/(t + 2) in a cumulative average.",
        apply=edit(_weight, "+ 1.0)", "+ 2.0)"),
    ),
    Mutant(
        name="cumulative-is-exponential",
        clause="BN-RUN-5",
        row="D1",
        breaks="Averages exponentially where a cumulative average is asked for.",
        apply=edit(_weight, 'if config.averaging != "cumulative":', "if True:"),
    ),
    Mutant(
        name="pooled-by-batches",
        clause="BN-RUN-6",
        row="D23",
        breaks="Pools batches with equal weight, whatever their counts.",
        apply=edit(
            _pool,
            "share = n / (total + xp.astype(total == 0, dtype))",
            "share = xp.where(seen == 0, xp.ones_like(n), xp.full_like(n, 0.5))",
        ),
    ),
    Mutant(
        name="pooled-without-distance",
        clause="BN-RUN-6",
        row="D8",
        breaks="Pools variances and drops what lies between the means.",
        apply=edit(_pool, "old_m2 + feed.m2 + difference * difference * (seen * share)", "old_m2 + feed.m2"),
    ),
    Mutant(
        name="pooled-undoes-another-correction",
        clause="BN-RUN-6",
        row="D24",
        breaks="Undoes the correction of the old variance with the count of the new batch.",
        apply=edit(
            _pool,
            "old_m2 = xp.where(spare > 0, old.var * spare, xp.zeros_like(seen))",
            "undone = (n - config.correction) * (seen / n)\n"
            "    old_m2 = xp.where(spare > 0, old.var * undone, xp.zeros_like(seen))",
        ),
    ),
    Mutant(
        name="debiased-exponent",
        clause="BN-RUN-7",
        row="D9",
        breaks="Debiases by 1 - decay^(t + 1).",
        apply=edit(used_statistics, "xp.expm1(t *", "xp.expm1((t + 1) *"),
    ),
    Mutant(
        name="debiased-from-one",
        clause="BN-RUN-7",
        row="D9",
        breaks="Starts a debiased variance at 1 and divides by 1 - decay^t all the same.",
        apply=edit(
            used_statistics,
            "where(fresh, xp.ones_like(state.var), state.var / share)",
            "xp.where(fresh, xp.ones_like(state.var), (state.var + (1 - share)) / share)",
        ),
    ),
    Mutant(
        name="never-debiased",
        clause="BN-RUN-7",
        row="D9",
        breaks="Uses the biased sums as they are.",
        apply=edit(used_statistics, 'if config.averaging != "debiased":', "if True:"),
    ),
    Mutant(
        name="empty-batch-counts",
        clause="BN-RUN-9",
        row="D10",
        breaks="Leaves the statistics for count 0 but counts the update.",
        apply=edit(
            _step,
            'chosen = take & ~keep_var if name in ("var", "stddev", "renorm_stddev") else take',
            'chosen = take & ~keep_var if name in ("var", "stddev", "renorm_stddev") else take\n'
            '        chosen = chosen | (feed.count == 0) if name == "count" else chosen',
        ),
    ),
    Mutant(
        name="empty-batch-feeds-zeros",
        clause="BN-RUN-9",
        row="D10",
        breaks="Feeds mean 0 and variance 0 for a batch without elements.",
        apply=edit(_step, _TAKE, "take = feed.count >= 0"),
    ),
    Mutant(
        name="empty-batch-feeds-nan",
        clause="BN-RUN-9",
        row="D10",
        breaks="Feeds 0/0 for a batch without elements.",
        apply=edit(_step, _TAKE, "feed = feed._replace(mean=feed.mean + 0.0 / feed.count)\n    take = feed.count >= 0"),
    ),
    Mutant(
        name="nonfinite-not-skipped",
        clause="BN-RUN-10",
        row="D17",
        breaks='Lets NaN into the state although nonfinite="skip".',
        apply=edit(_step, 'if config.nonfinite == "skip" else', 'if config.nonfinite == "drop" else'),
    ),
    Mutant(
        name="nonfinite-skips-all-channels",
        clause="BN-RUN-10",
        row="D17",
        breaks="Skips the update of every channel for a bad value in one.",
        apply=edit(_step, "take = usable & take if", "take = (xp.zeros_like(usable) | xp.all(usable)) & take if"),
    ),
    Mutant(
        name="nonfinite-raise-is-silent",
        clause="BN-RUN-10",
        row="D17",
        breaks='Goes on with NaN although nonfinite="raise".',
        apply=edit(_step, 'if config.nonfinite == "raise":', 'if config.nonfinite == "stop":'),
    ),
    Mutant(
        name="weight-one-blends",
        clause="BN-RUN-11",
        row="D17",
        breaks="Computes old + 1*(batch - old) for weight 1, so that an old NaN never leaves.",
        apply=edit(_move, "batch if w == 1 else", "batch if w == 2 else"),
    ),
    Mutant(
        name="weight-zero-blends",
        clause="BN-RUN-11",
        row="D17",
        breaks="Computes old + 0*(batch - old) for weight 0, so that NaN enters.",
        apply=edit(_move, "return old if w == 0 else", "return old if w == 2 else"),
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
        apply=edit(
            _count_up,
            "return xp.where(room < by, xp.full_like(count, top), count + xp.where(room < by, xp.zeros_like(by), by))",
            "return count + by",
        ),
    ),
    Mutant(
        name="variance-below-zero",
        clause="BN-RUN-14",
        breaks="Takes a running variance below 0, whose root is NaN.",
        apply=edit(_has_negative, "return not", "return False and not"),
    ),
    Mutant(
        name="counter-of-batches",
        clause="BN-RUN-6",
        row="D23",
        breaks="Counts batches where a pooled state counts elements.",
        apply=edit(_pool, "count=_count_up(old.count, feed.count)", "count=_count_up(old.count, 1)"),
    ),
    Mutant(
        name="deviation-averaged",
        clause="BN-RUN-1",
        row="D22",
        breaks="Averages deviations and keeps the square of the average.",
        apply=edit(_step, "var=_move(old.var, feed.var, w)", "var=_move(old.var**0.5, feed.var**0.5, w) ** 2"),
    ),
)
