"""Bounds of the error of a right answer: computed from the case, never chosen.

`bounds` is the analysis of an algorithm that this project takes as the measure (`bounds.analysis` derives it):
moments kept as a pair, all arithmetic in one format W, one cast per result. For float32 x and float64 W everything
but the cast is of the order of n 2**-53, so the bound of y is one float32 roundoff of y. The one-pass variance E[x^2]
- E[x]^2 in float32 errs by about 2**-24 (mean/std)^2 relative to var, against a bound of some 5 n 2**-24 even for
float32 W: it is rejected once (mean/std)^2 exceeds a small multiple of n.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.analysis import batch_bounds
from bnspec_conformance.bounds.declared import Evaluation, arithmetics
from bnspec_conformance.bounds.inference import inference_bounds
from bnspec_conformance.bounds.rounding import limits
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64

__all__ = ["bounds", "hard_bound", "ulps", "violations"]

Floats = npt.NDArray[np.float64]


def bounds(
    case: Case,
    reference: Outcome,
    arithmetic: Literal["float64", "twofold", "float32"] = "float64",
    flush: bool = False,
    *,
    evaluation: Evaluation | None = None,
    plain: bool = False,
) -> Outcome:
    """Absolute error bounds of everything in an outcome.

    Parameters
    ----------
    case : Case
    reference : Outcome
        The exact answer, of `oracle.exact` (or `oracle.float64` where float64's error does not matter).
    arithmetic : {"float64", "twofold", "float32"}
        The arithmetic W; for float64 x it is float64 in any case [BN-PREC-1].
    flush : bool
        Whether the subject takes and makes subnormal numbers as 0.
    evaluation : Evaluation, optional
        E, in which y (with ydot) and dx are evaluated; W where nothing is said.
    plain : bool
        The bound of an implementation that keeps the mean in one number of W, and may evaluate y as x*scale + shift.

    Returns
    -------
    Outcome
        The fields and shapes of `reference`: y, dx, ydot elementwise for x's dtype; dgamma and dbeta for the
        parameter's dtype; state for the state's dtype; mean, var and their tangents for W; counts 0. Infinite
        where W overflows on the way.
    """
    within = arithmetics(case.ranks[0].x.dtype, arithmetic, evaluation, flush)
    with np.errstate(all="ignore"):
        if case.mode == "inference":
            result = inference_bounds(case, within, flush, plain)
        else:
            result = batch_bounds(case, reference, within, flush, plain)
    return Outcome(tuple(_claimed(b, r) for b, r in zip(result, reference.ranks, strict=True)))


def violations(
    got: Array, reference: Floats, bound: Floats, dtype: npt.DTypeLike, *, any_nonfinite: bool = False
) -> npt.NDArray[np.bool_]:
    """Return the elements in which a result is outside its bound.

    Parameters
    ----------
    got, reference, bound : array
        One shape.
    dtype : dtype
        Of the result. A reference beyond its largest number by more than the bound must come out infinite, with the
        reference's sign; one that is nearer may.
    any_nonfinite : bool
        Whether an infinity will do where the reference is NaN (statistics); otherwise it must be NaN too.

    Returns
    -------
    array of bool
    """
    value = as_float64(got)
    digits, _, high = limits(dtype)
    top = (2.0 - 2.0**-digits) * 2.0**high
    with np.errstate(all="ignore"):
        overflow = top * (1 + 2.0 ** -(digits + 2)) if top < 1e300 else np.inf  # halfway to the number that is missing
        right_side = np.isinf(value) & (np.sign(value) == np.sign(reference))
        inside = np.abs(value - reference) <= bound
        inside |= right_side & (np.abs(reference) + bound >= overflow)
        inside &= ~(np.isfinite(value) & (np.abs(reference) - bound > max(overflow, top)))
        inside |= right_side & np.isinf(reference)
        inside |= np.isposinf(bound)
        lost = ~np.isfinite(value) if any_nonfinite else np.isnan(value)
    return np.asarray(np.where(np.isnan(reference), ~lost, ~inside))


def hard_bound(reference: Floats, gamma: Array | None, axis: int = -1, *, flush: bool = False) -> Floats:
    """Eight float32 roundoffs of the channel's largest |reference|, the bound of the hard families.

    Parameters
    ----------
    reference : array
        Exact y or dx.
    gamma : array or None
        Shape (C,); |gamma| (1 if None) takes the place of the largest value in a channel that is 0 throughout.
    axis : int
        Channel axis.
    flush : bool
        Whether the subject flushes subnormal numbers.

    Returns
    -------
    array
        reference's rank, C along axis and 1 elsewhere. Half the smallest float32 subnormal is added, since no float32
        can be nearer to every real number; the smallest normal float32 where subnormal results are flushed to 0.
    """
    others = tuple(i for i in range(reference.ndim) if i != axis % reference.ndim)
    size = np.max(np.abs(reference), axis=others, keepdims=True, initial=0.0)
    instead = np.ones(size.size) if gamma is None else np.abs(as_float64(gamma))
    return np.asarray(
        8 * 2.0**-24 * np.where(size == 0, instead.reshape(size.shape), size) + (2.0**-126 if flush else 2.0**-150)
    )


def ulps(error: npt.ArrayLike, reference: npt.ArrayLike, dtype: npt.DTypeLike) -> Floats:
    """Return an error in units of the last place that a dtype has at the reference."""
    digits, low, high = limits(dtype)
    _, exponent = np.frexp(np.abs(np.asarray(reference, dtype=np.float64)))
    binade = np.where(np.asarray(reference) == 0, low, np.clip(exponent - 1, low, high))
    with np.errstate(over="ignore"):
        return np.asarray(np.ldexp(np.abs(np.asarray(error, dtype=np.float64)), digits - binade))


def _claimed(bound: RankOutcome, reference: RankOutcome) -> RankOutcome:
    """Return the bounds: infinite where the analysis gives none, absent where the reference has no value."""

    def claim(b: Array, r: Array) -> Array:
        own = 2.0**-53 * np.abs(np.where(np.isfinite(r), r, 0.0))  # the reference was rounded as well, once
        return np.where(np.isnan(b), np.inf, b + own * (r.dtype.kind == "f"))

    def clean(b: Array | None, r: Array | None) -> Array | None:
        return None if r is None or b is None else claim(b, r)

    fields = ("y", "count", "mean", "mean_low", "var", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")
    state = None
    if reference.state is not None and bound.state is not None:
        state = {k: claim(v, reference.state[k]) for k, v in bound.state.items()}
    cleaned = {name: clean(getattr(bound, name), getattr(reference, name)) for name in fields}
    return RankOutcome(state=state, **cleaned)
