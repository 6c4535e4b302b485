"""Mutants of masks: what a masked element adds to, and what becomes of it."""

from typing import Any

from bnspec import _arrays
from bnspec._batch_norm import batch_norm
from bnspec._gradients import cotangent_sums, grad_input, usable_part
from bnspec._kernels import Kernels
from bnspec._moments import moments
from bnspec._normalize import normalize_usable
from bnspec._running import _step
from bnspec_conformance.mutants.mutant import Mutant, edit, wrap

__all__ = ["MUTANTS"]

_TOTAL = "values = xp.where(keep, values, xp.zeros_like(values))"
_SELECT = "deviation = xp.where(keep, deviation, xp.zeros_like(deviation))"
_PLAIN = "return normalize(x, centre, scale, shift, groups)"
_MASKED = "y = " + _PLAIN.removeprefix("return ") + "\n        return y if mask is None else "


def _nonzero(original: Any, *given: Any, mask: Any = None, **named: Any) -> Any:
    return original(*given, mask=mask.astype("bool") if hasattr(mask, "astype") else mask, **named)


MUTANTS = (
    Mutant(
        name="masked-in-the-mean",
        clause="BN-MASK-1",
        row="D14",
        breaks="Sums masked elements into the mean, and divides by the unmasked count.",
        apply=edit(moments, _TOTAL, "pass"),
    ),
    Mutant(
        name="masked-in-the-variance",
        clause="BN-MASK-1",
        row="D14",
        breaks="Sums the squares of masked elements into the variance.",
        apply=edit(moments, _SELECT, "pass"),
    ),
    Mutant(
        name="mask-ignored",
        clause="BN-MASK-1",
        row="D14",
        breaks="Drops the mask.",
        apply=wrap(batch_norm, lambda original, *given, **named: original(*given, **(named | {"mask": None}))),
    ),
    Mutant(
        name="masked-count-padded",
        clause="BN-MASK-1",
        row="D14",
        breaks="Divides by count + 1e-7, so that no division by 0 occurs.",
        apply=edit(moments, "n = n + xp.astype(empty, dtype)", "n = n + (0.0 if keep is None else 1e-7)"),
    ),
    Mutant(
        name="masked-output-zero",
        clause="BN-MASK-2",
        row="D14",
        breaks="Gives 0 for y at masked positions.",
        apply=edit(
            normalize_usable, _PLAIN, _MASKED + "array_namespace(x).where(expand_mask(mask, x, groups), y, y * 0)"
        ),
    ),
    Mutant(
        name="masked-output-x",
        clause="BN-MASK-2",
        row="D14",
        breaks="Hands x through at masked positions.",
        apply=edit(normalize_usable, _PLAIN, _MASKED + "array_namespace(x).where(expand_mask(mask, x, groups), y, x)"),
    ),
    Mutant(
        name="mask-multiplies",
        clause="BN-MASK-3",
        row="D17",
        breaks="Multiplies by the mask where it should select, so that NaN*0 enters the sums.",
        apply=edit(
            moments,
            _TOTAL,
            "values = values * xp.astype(keep, dtype)",
            _SELECT,
            "deviation = deviation * xp.astype(keep, dtype)",
        ),
    ),
    Mutant(
        name="masked-nan-in-gradients",
        clause="BN-MASK-3",
        row="D17",
        breaks="Lets a masked NaN into sum g*xhat.",
        apply=edit(
            cotangent_sums,
            "s1, centred = grad_sums(dy, x,",
            "s1, centred = grad_sums(dy, saved.x,",
            "if usable is None:",
            "if True:",
        ),
    ),
    Mutant(
        name="masked-nan-in-tangents",
        clause="BN-MASK-3",
        row="D17",
        breaks="Lets a masked NaN into its own dx and tangent.",
        apply=edit(usable_part, "return where(usable, x, xp.zeros_like(x)), usable", "return x, usable"),
    ),
    Mutant(
        name="masked-cotangents-dropped",
        clause="BN-MASK-4",
        row="D14",
        breaks="Leaves g of masked positions out of the sums, although their y depends on the statistics.",
        apply=edit(
            Kernels.pull_back,
            "x, s1, s2 = _gradients.cotangent_sums(kernels.grad_sums, g, x, saved)",
            "x, s1, s2 = _gradients.cotangent_sums(kernels.grad_sums, g, x, saved)\n"
            "    if saved.mask is not None:\n"
            "        s1, s2 = kernels.grad_sums(g, x, saved.centre, groups, saved.mask)\n"
            "        s2 = s2 - saved.centre_low * s1",
        ),
    ),
    Mutant(
        name="masked-dx-of-statistics",
        clause="BN-MASK-4",
        row="D14",
        breaks="Gives masked positions the part of dx that comes through the statistics.",
        apply=edit(grad_input, "statistics = xp.where(keep, statistics, xp.zeros_like(statistics))", "pass"),
    ),
    Mutant(
        name="all-masked-divides-by-zero",
        clause="BN-MASK-5",
        row="D14",
        breaks="Divides by the count 0 of a group without elements.",
        apply=edit(moments, "n = n + xp.astype(empty, dtype)", "pass"),
    ),
    Mutant(
        name="all-masked-feeds-zeros",
        clause="BN-MASK-5",
        row="D14",
        breaks="Pulls the running statistics towards 0 by a batch that is masked altogether.",
        apply=edit(_step, "take = feed.count > 0", "take = feed.count >= 0"),
    ),
    Mutant(
        name="masked-samples-counted",
        clause="BN-MASK-6",
        row="D14",
        breaks="Counts masked samples where it leaves whole samples out of the sums.",
        apply=edit(
            moments,
            "ones = xp.astype(keep, count_dtype(xp))",
            "ones = xp.astype(keep if math.prod(mask.shape[1:]) > 1 else xp.ones_like(keep), count_dtype(xp))",
        ),
    ),
    Mutant(
        name="numbers-as-mask",
        clause="BN-MASK-7",
        row="D28",
        breaks="Takes a mask of numbers.",
        apply=wrap(batch_norm, _nonzero),
    ),
    Mutant(
        name="masked-array-taken",
        clause="BN-MASK-7",
        row="D14",
        breaks="Takes an array with a mask of its own, and honours it here and there.",
        apply=edit(_arrays.floating, 'if type(x).__module__.startswith("numpy.ma"):', "if False:"),
    ),
    Mutant(
        name="mask-of-any-shape",
        clause="BN-MASK-7",
        row="D14",
        breaks="Takes a mask of x's own shape, channels included.",
        apply=edit(
            _arrays.mask,
            "if mask.ndim != x.ndim or any(",
            "if tuple(mask.shape) == tuple(x.shape):\n        return\n    if mask.ndim != x.ndim or any(",
        ),
    ),
)
