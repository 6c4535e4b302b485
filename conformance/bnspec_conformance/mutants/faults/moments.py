"""Mutants of the moments: count, mean and variance of a group, and how two sets of them join."""

from bnspec._moments import merge_rows, moments
from bnspec._types import Moments
from bnspec_conformance.mutants.mutant import Mutant, edit

__all__ = ["MUTANTS"]

_M2 = "m2 = sum_over(deviation * deviation, axes, plain=plain)"
_IN_FLOAT32 = "m2 = xp.astype(total(xp.astype(v * v, xp.float32)), dtype) - n * high * high"
_SHIFT = "shift = stop_gradient(xp.max(shift, axis=axes))"

MUTANTS = (
    Mutant(
        name="one-pass-variance",
        clause="BN-MOM-3",
        row="D11",
        breaks="Takes the variance as E[x^2] - E[x]^2, clamped at 0.",
        apply=edit(
            moments,
            _M2,
            "m2 = total(v * v) - n * high * high\n    m2 = xp.where(m2 < 0, xp.zeros_like(m2), m2)",
        ),
    ),
    Mutant(
        name="one-pass-variance-float32",
        clause="BN-MOM-8",
        row="D11",
        breaks="Takes E[x^2] - E[x]^2 from squares that are summed in float32.",
        apply=edit(moments, _M2, _IN_FLOAT32),
    ),
    Mutant(
        name="negative-variance",
        clause="BN-MOM-4",
        row="D11",
        breaks="Takes E[x^2] - E[x]^2 and does not clamp it, so that a variance may be negative.",
        apply=edit(moments, _M2, _IN_FLOAT32),
    ),
    Mutant(
        name="mean-in-one-number",
        clause="BN-PREC-1",
        row="D11",
        breaks="Drops the low part of the mean.",
        apply=edit(moments, "low = total(deviation) / n", "low = xp.zeros_like(high)"),
    ),
    Mutant(
        name="mean-in-float32",
        clause="BN-MOM-2",
        row="D11",
        breaks="Sums x itself in float32, with no shift.",
        apply=edit(
            moments,
            "high = shift + total(v - spread(shift, x, groups)) / n",
            "high = xp.astype(total(xp.astype(v, xp.float32)), dtype) / n",
            "low = total(deviation) / n",
            "low = xp.zeros_like(high)",
        ),
    ),
    Mutant(
        name="no-shift",
        clause="BN-MOM-5",
        breaks="Takes sum x/n as the mean, which need not be the value of a constant channel.",
        apply=edit(
            moments,
            "plain = has_headroom(x)",
            "plain = True",
            _SHIFT,
            "shift = xp.zeros_like(xp.max(shift, axis=axes))",
            "low = total(deviation) / n",
            "low = xp.zeros_like(high)",
        ),
    ),
    Mutant(
        name="corrected-normalization",
        clause="BN-MOM-3",
        row="D2",
        breaks="Normalizes by the variance with divisor n - 1.",
        apply=edit(Moments.var, "return self.m2 / (count", "return self.m2 / (count - (count > 1)"),
    ),
    Mutant(
        name="count-of-samples",
        clause="BN-MOM-1",
        breaks="Counts samples where it should count elements.",
        apply=edit(moments, "full((groups.number,), size,", "full((groups.number,), v.shape[1],"),
    ),
    Mutant(
        name="count-in-half-precision",
        clause="BN-MOM-1",
        row="D13",
        breaks="Holds the count in float16, which cannot hold 2049.",
        apply=edit(
            moments,
            "n = xp.astype(count, dtype)[:, None]",
            "count = xp.astype(xp.astype(count, 'float16'), count.dtype)\n    n = xp.astype(count, dtype)[:, None]",
        ),
    ),
    Mutant(
        name="inexact-mean",
        clause="BN-MOM-6",
        breaks="Multiplies by a rounded 1/n where it should divide by n.",
        apply=edit(
            moments,
            "groups)) / n\n    deviation",
            "groups)) * (1.0 / n)\n    deviation",
            "low = total(deviation) / n",
            "low = xp.zeros_like(high)",
        ),
    ),
    Mutant(
        name="merge-without-distance",
        clause="BN-MOM-7",
        row="D8",
        breaks="Merges variances and forgets the distance of the means.",
        apply=edit(merge_rows, " + (d * d) * (na * nb) / n", ""),
    ),
    Mutant(
        name="merge-by-halves",
        clause="BN-MOM-7",
        row="D15",
        breaks="Merges two means by halves, whatever their counts.",
        apply=edit(merge_rows, "(d * nb) / n)", "d / 2.0)"),
    ),
    Mutant(
        name="merge-divides-first",
        clause="BN-MOM-6",
        breaks="Merges by d*(n_b/n), which rounds where (d*n_b)/n is exact.",
        apply=edit(merge_rows, "(d * nb) / n)", "d * (nb / n))"),
    ),
    Mutant(
        name="merge-through-inverse-deviation",
        clause="BN-MOM-7",
        row="D13",
        breaks="Carries 1/sqrt(var + 1e-5) in float32 between parts, and takes the variance back out of it.",
        apply=edit(
            merge_rows,
            "(a[:, m2:] + b[:, m2:])",
            "(through(a[:, m2:], na) + through(b[:, m2:], nb))",
            "c = (a.shape[1] - added) // 3\n",
            "c = (a.shape[1] - added) // 3\n\n"
            "    def through(m2, n):\n"
            "        n = n + (n == 0)\n"
            "        istd = xp.astype(1.0 / xp.sqrt(m2 / n + 1e-5), xp.float32)\n"
            "        return xp.astype(1.0 / (istd * istd), m2.dtype) * n - 1e-5 * n\n\n",
        ),
    ),
    Mutant(
        name="merge-with-nothing",
        clause="BN-MOM-7",
        row="D10",
        breaks="Merges with a part without elements by the formula, which divides by its count.",
        apply=edit(
            merge_rows,
            "n = n + xp.astype(n == 0, n.dtype)",
            "n = nb + na",
            "return xp.where(nb == 0, a, xp.where(na == 0, b, merged))",
            "return merged",
        ),
    ),
    Mutant(
        name="one-shift-for-all-channels",
        clause="BN-MOM-9",
        row="D17",
        breaks="Measures all channels from one common value, so that NaN in one channel reaches all.",
        apply=edit(moments, _SHIFT, "shift = xp.max(shift, axis=axes) * 0.0 + xp.max(shift)"),
    ),
    Mutant(
        name="nan-left-out",
        clause="BN-MOM-9",
        row="D17",
        breaks="Leaves NaN and infinities out of the statistics as if they were masked.",
        apply=edit(moments, "keep = None\n", "keep = xp.isfinite(v)\n"),
    ),
)
