"""Mutants of the moments: count, mean and variance of a group, and how two sets of them join."""

from typing import Any

import numpy as np

from bnspec import Moments, batch_norm
from bnspec._groups import reduced_axes, spread
from bnspec._sums import two_sum
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import about, kept, measured_from, total, wide, with_moments
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS", "without_distance"]


def _divisor(m: Moments) -> Any:
    return np.maximum(m.count, 1)[:, None]


def _one_pass(dtype: str, lowest: float) -> Any:
    """Take E[x^2] - E[x]^2 from squares in a dtype, and no variance below a limit."""

    def change(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
        v = np.where(kept(x, groups, mask), wide(x, groups), 0.0)
        m2 = total((v * v).astype(dtype), x, groups) - m.count[:, None] * m.mean * m.mean
        return m._replace(m2=np.maximum(m2, lowest))

    return with_moments(change)


def _mean_by(mean: Any) -> Any:
    """Take the mean by a function of the selected elements, a function that sums, and the count."""

    def change(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
        v = np.where(kept(x, groups, mask), wide(x, groups), 0.0)
        return about(m, mean(v, lambda values: total(values, x, groups), _divisor(m)), x, groups, mask)

    return with_moments(change)


def _without_nonfinite(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    axes, v = reduced_axes(x, groups), wide(x, groups)
    v = np.where(np.isfinite(v), v, np.nan)
    if mask is not None or np.isfinite(v).all():
        return m
    mean = np.nanmean(v, axis=axes)
    return m._replace(mean=mean, mean_low=mean * 0, m2=np.nansum((v - spread(mean, x, groups)) ** 2, axis=axes))


def _without_low_part(original: Any, *given: Any, **named: Any) -> Any:
    y, stats, saved = original(*given, **named)
    return y, stats._replace(mean_low=stats.mean_low * 0.0), saved


def _columns(rows: Any, added: int) -> tuple[Any, Any, Any, Any]:
    """Cut rows into weight, mean, mean_low and m2, as views."""
    c = rows.shape[1] // (added + 3)
    weight, mean, low, m2 = (rows[:, k * c : (k + 1) * c] for k in range(added - 1, added + 3))
    return weight, mean, low, m2


def without_distance(original: Any, a: Any, b: Any, added: int) -> Any:
    """Merge m2 as if both means were the same."""
    joined = np.array(original(a, b, added))
    _columns(joined, added)[3][...] = _columns(a, added)[3] + _columns(b, added)[3]
    return joined


def _merged_mean(step: Any) -> Any:
    """Merge means by another step from a's towards b's, given their distance and the weights of all and of b."""

    def merge(original: Any, a: Any, b: Any, added: int) -> Any:
        joined = np.array(original(a, b, added))
        (n, mean, low, _), (na, ma, la, _), (nb, mb, lb, _) = (_columns(v, added) for v in (joined, a, b))
        high, rest = two_sum(ma, la + step((mb - ma) + (lb - la), np.maximum(n, 1), nb))
        mean[...], low[...] = (np.where(na * nb == 0, old, v) for old, v in ((mean, high), (low, rest)))
        return joined

    return override(merge=merge)


def _through_inverse_deviation(original: Any, a: Any, b: Any, added: int) -> Any:
    def carried(rows: Any) -> Any:
        rows = np.array(rows)
        n, _, _, m2 = _columns(rows, added)
        n = np.maximum(n, 1)
        inverse = (1.0 / np.sqrt(m2 / n + 1e-5)).astype("float32")
        m2[...] = (1.0 / (inverse * inverse) - 1e-5) * n
        return rows

    return original(carried(a), carried(b), added)


def _by_the_formula_alone(original: Any, a: Any, b: Any, added: int) -> Any:
    joined = np.array(original(a, b, added))
    n, mean, _, m2 = _columns(joined, added)
    mean += 0.0 / n
    m2 += 0.0 / n
    return joined


MUTANTS = (
    Mutant(
        name="one-pass-variance",
        clause="BN-MOM-3",
        row="D11",
        breaks="Takes the variance as E[x^2] - E[x]^2, clamped at 0.",
        apply=_one_pass("float64", 0.0),
    ),
    Mutant(
        name="one-pass-variance-float32",
        clause="BN-MOM-8",
        row="D11",
        breaks="Takes E[x^2] - E[x]^2 from squares that are summed in float32.",
        apply=_one_pass("float32", -np.inf),
    ),
    Mutant(
        name="negative-variance",
        clause="BN-MOM-4",
        row="D11",
        breaks="Takes E[x^2] - E[x]^2 and does not clamp it, so that a variance may be negative.",
        apply=_one_pass("float32", -np.inf),
    ),
    Mutant(
        name="mean-in-one-number",
        clause="BN-PREC-1",
        row="D11",
        breaks="Drops the low part of the mean.",
        apply=with_moments(lambda m, *given: m._replace(mean_low=m.mean_low * 0.0)),
    ),
    Mutant(
        name="low-part-not-returned",
        clause="BN-MOM-2",
        breaks="Returns the statistics without the low part of the mean, with which it has normalized.",
        apply=wrap(batch_norm, _without_low_part),
    ),
    Mutant(
        name="mean-in-float32",
        clause="BN-MOM-2",
        row="D11",
        breaks="Sums x itself in float32, with no shift.",
        apply=_mean_by(lambda v, total, n: total(v.astype("float32")) / n),
    ),
    Mutant(
        name="no-shift",
        clause="BN-MOM-5",
        breaks="Takes sum x/n as the mean, which need not be the value of a constant channel.",
        apply=_mean_by(lambda v, total, n: total(v) / n),
    ),
    Mutant(
        name="corrected-normalization",
        clause="BN-MOM-3",
        row="D2",
        breaks="Normalizes by the variance with divisor n - 1.",
        apply=with_moments(lambda m, *given: m._replace(m2=m.m2 * (_divisor(m) / np.maximum(_divisor(m) - 1, 1)))),
    ),
    Mutant(
        name="count-of-samples",
        clause="BN-MOM-1",
        breaks="Counts samples where it should count elements.",
        apply=with_moments(
            lambda m, x, groups, mask: m._replace(
                count=np.full_like(m.count, len(x) // groups.number) if mask is None else m.count
            )
        ),
    ),
    Mutant(
        name="count-in-half-precision",
        clause="BN-MOM-1",
        row="D13",
        breaks="Holds the count in float16, which cannot hold 2049.",
        apply=with_moments(lambda m, *given: m._replace(count=m.count.astype("float16").astype(m.count.dtype))),
    ),
    Mutant(
        name="inexact-mean",
        clause="BN-MOM-6",
        breaks="Multiplies by a rounded 1/n where it should divide by n.",
        apply=_mean_by(lambda v, total, n: total(v) * (1.0 / n)),
    ),
    Mutant(
        name="merge-without-distance",
        clause="BN-MOM-7",
        row="D8",
        breaks="Merges variances and forgets the distance of the means.",
        apply=override(merge=without_distance),
    ),
    Mutant(
        name="merge-by-halves",
        clause="BN-MOM-7",
        row="D15",
        breaks="Merges two means by halves, whatever their counts.",
        apply=_merged_mean(lambda d, n, nb: d / 2.0),
    ),
    Mutant(
        name="merge-divides-first",
        clause="BN-MOM-6",
        breaks="Merges by d*(n_b/n), which rounds where (d*n_b)/n is exact.",
        apply=_merged_mean(lambda d, n, nb: d * (nb / n)),
    ),
    Mutant(
        name="merge-through-inverse-deviation",
        clause="BN-MOM-7",
        row="D13",
        breaks="Carries 1/sqrt(var + 1e-5) in float32 between parts, and takes the variance back out of it.",
        apply=override(merge=_through_inverse_deviation),
    ),
    Mutant(
        name="merge-with-nothing",
        clause="BN-MOM-7",
        row="D10",
        breaks="Merges with a part without elements by the formula, which divides by its count.",
        apply=override(merge=_by_the_formula_alone),
    ),
    Mutant(
        name="one-shift-for-all-channels",
        clause="BN-MOM-9",
        row="D17",
        breaks="Measures all channels from one common value, so that NaN in one channel reaches all.",
        apply=measured_from(lambda v, axes: np.full_like(np.max(v, axis=axes), np.max(v))),
    ),
    Mutant(
        name="nan-left-out",
        clause="BN-MOM-9",
        row="D17",
        breaks="Leaves NaN and infinities out of the statistics as if they were masked.",
        apply=with_moments(_without_nonfinite),
    ),
)
