"""Mutants of precision: the dtype of sums, statistics, states and casts; and of determinism."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bnspec import Moments, Params, RunningState, batch_norm, batch_norm_vjp
from bnspec._checks import records
from bnspec._dtypes import arithmetic_dtype, statistics_dtype
from bnspec._errors import refusal
from bnspec._groups import reduced_axes, split, spread
from bnspec._normalize import inverse_stddev
from bnspec._sums import sum_over
from bnspec_conformance.mutants.mutant import Apply, Mutant, together
from bnspec_conformance.mutants.naive import about, dx_plus, kept, total, wide, with_moments, with_params
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]

_NARROW = ("float16", "bfloat16")


def _bfloat16(v: Any) -> Any:
    return np.asarray((np.asarray(v, "float32").view("uint32") & np.uint32(0xFFFF0000)).view("float32"))


def _state_in_16_bits(original: Any, state: Any, *rest: Any, **named: Any) -> Any:
    new = original(state, *rest, **named)
    return new._replace(mean=_bfloat16(new.mean).astype(new.mean.dtype), var=_bfloat16(new.var).astype(new.var.dtype))


def _narrow_taken(original: Any, x: Any, axis: int, given: Any, *rest: Any) -> None:
    """Check a state as if its averages had 32 bits at least."""
    if isinstance(given, RunningState):
        fields = given._asdict().items()
        narrow = {k: v.astype("float32") for k, v in fields if v is not None and v.dtype.name in _NARROW}
        given = given._replace(**narrow)
    original(x, axis, given, *rest)


def _one_dtype(original: Any, x: Any, params: Any, *rest: Any, **named: Any) -> Any:
    for value in params:
        if value is not None and value.dtype != x.dtype:
            raise refusal(
                TypeError, "BN-PREC-3", got=f"a parameter of {value.dtype}", expected=f"{x.dtype}", do="Cast it."
            )
    return original(x, params, *rest, **named)


def _halves(params: Params) -> Params:
    return Params(*(v if v is None else v.astype("float16") for v in params))


def _narrow_mean(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    v = np.where(kept(x, groups, mask), split(x, groups), np.zeros_like(x, shape=()))
    mean = np.sum(v, axis=reduced_axes(x, groups), dtype=x.dtype).astype("float64") / np.maximum(m.count, 1)[:, None]
    return about(m, mean, x, groups, mask)


def _narrow_squares(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    deviation = np.where(kept(x, groups, mask), wide(x, groups) - spread(m.mean, x, groups), 0.0)
    return m._replace(m2=total((deviation * deviation).astype(x.dtype).astype("float64"), x, groups))


def _y_rounded_twice(original: Any, x: Any, centre: Any, scale: Any, shift: Any, groups: Any) -> Any:
    return dx_plus(original(x, centre, scale, shift * 0.0, groups), spread(shift, x, groups), groups)


def _y_cut(original: Any, x: Any, *rest: Any) -> Any:
    y = original(x.astype("float64"), *rest)
    near = y.astype(x.dtype)
    down = np.nextafter(near, np.zeros_like(near))
    return np.where(np.abs(near.astype("float64")) > np.abs(y), down, near)


def _narrow_sum(original: Any, dy: Any, x: Any, centre: Any, groups: Any, mask: Any) -> Any:
    s1, s2 = original(dy, x, centre, groups, mask)
    if mask is not None or not x.size:
        return s1, s2
    return np.sum(split(dy, groups), axis=reduced_axes(x, groups), dtype=dy.dtype).astype("float64"), s2


def _dgamma_rounded_twice(original: Any, dy: Any, saved: Any, **more: Any) -> Any:
    gradients = original(dy, saved, **more)
    if gradients.gamma is None:
        return gradients
    return gradients._replace(gamma=gradients.gamma.astype(saved.x.dtype).astype(gradients.gamma.dtype))


def _statistics_rounded(original: Any, x: Any, params: Any, mean: Any, var: Any, *rest: Any) -> Any:
    return original(x, params, *(v.astype(x.dtype).astype(v.dtype) for v in (mean, var)), *rest)


def _counting(function: Any, behaviour: Callable[..., Any]) -> Apply:
    """Return a wrap whose behaviour also gets the number of the call since the mutant was applied."""

    @contextmanager
    def apply() -> Iterator[None]:
        calls = itertools.count()
        with wrap(function, lambda *given, **named: behaviour(next(calls), *given, **named))():
            yield

    return apply


def _later_calls_differ(call: int, original: Any, var: Any, epsilon: float) -> Any:
    return original(var, epsilon) * (1.0 + 2.0**-50 * (call % 2))


def _any_order(call: int, original: Any, x: Any, axes: Any, *, plain: bool) -> Any:
    flat = np.moveaxis(x, axes, range(len(axes))).reshape(-1, *(n for a, n in enumerate(x.shape) if a not in axes))
    return original(np.roll(flat, 7 * call, axis=0), (0,), plain=plain)


def _order_of_memory(original: Any, x: Any, groups: Any) -> Any:
    found = original(x, groups)
    if groups.number > 1 and x.ndim > 1 and x.flags.f_contiguous and not x.flags.c_contiguous:
        return x.ravel(order="K").reshape(found.shape)
    return found


MUTANTS = (
    Mutant(
        name="float64-in-float32",
        clause="BN-PREC-1",
        row="D12",
        breaks="Computes everything in float32, for float64 x too.",
        apply=wrap(arithmetic_dtype, lambda original, x: np.float32),
    ),
    Mutant(
        name="statistics-in-float32",
        clause="BN-PREC-1",
        row="D12",
        breaks="Computes in float32 where x is float32, although the device has float64.",
        apply=wrap(arithmetic_dtype, lambda original, x: np.float64 if x.dtype == np.float64 else np.float32),
    ),
    Mutant(
        name="state-in-bfloat16",
        clause="BN-PREC-1",
        row="D12",
        breaks="Cuts the running statistics to the 8 bits of bfloat16.",
        apply=override(update=_state_in_16_bits),
    ),
    Mutant(
        name="state-in-the-dtype-of-x",
        clause="BN-PREC-1",
        row="D12",
        breaks="Makes the running state of a 16-bit x in 16 bits.",
        apply=together(
            wrap(statistics_dtype, lambda original, x: np.float16 if x.dtype.name in _NARROW else x.dtype),
            wrap(records.state, _narrow_taken),
        ),
    ),
    Mutant(
        name="narrow-state-taken",
        clause="BN-PREC-1",
        row="D12",
        breaks="Takes a running state of 16 bits, whose averages stand still.",
        apply=wrap(records.state, _narrow_taken),
    ),
    Mutant(
        name="sums-in-16-bits",
        clause="BN-PREC-2",
        row="D12",
        breaks="Sums a 16-bit x in its own dtype.",
        apply=with_moments(_narrow_mean),
    ),
    Mutant(
        name="squares-in-16-bits",
        clause="BN-PREC-2",
        row="D12",
        breaks="Squares deviations in x's dtype, where they overflow at 65504.",
        apply=with_moments(_narrow_squares),
    ),
    Mutant(
        name="y-rounded-twice",
        clause="BN-PREC-2",
        row="D12",
        breaks="Rounds xhat*gamma to x's dtype before it adds beta.",
        apply=override(normalize=_y_rounded_twice),
    ),
    Mutant(
        name="y-rounded-to-zero",
        clause="BN-PREC-2",
        row="D12",
        breaks="Cuts y off where it should round to nearest.",
        apply=override(normalize=_y_cut),
    ),
    Mutant(
        name="gradient-sums-in-16-bits",
        clause="BN-PREC-3",
        row="D12",
        breaks="Sums g in dy's dtype.",
        apply=override(grad_sums=_narrow_sum),
    ),
    Mutant(
        name="dgamma-rounded-twice",
        clause="BN-PREC-3",
        row="D12",
        breaks="Rounds dgamma to x's dtype before it is cast to gamma's.",
        apply=override(pull_back=_dgamma_rounded_twice),
    ),
    Mutant(
        name="dy-rounded",
        clause="BN-PREC-3",
        row="D12",
        breaks="Rounds dy to x's dtype before anything else.",
        apply=wrap(
            batch_norm_vjp,
            lambda original, dy, saved, *rest, **named: original(dy.astype(saved.x.dtype), saved, *rest, **named),
        ),
    ),
    Mutant(
        name="inference-statistics-rounded",
        clause="BN-PREC-3",
        row="D12",
        breaks="Casts the running statistics to x's dtype before it normalizes.",
        apply=override(infer=_statistics_rounded),
    ),
    Mutant(
        name="parameters-rounded",
        clause="BN-PREC-3",
        row="D12",
        breaks="Takes gamma and beta in half precision.",
        apply=with_params(_halves),
    ),
    Mutant(
        name="one-dtype-only",
        clause="BN-PREC-3",
        row="D28",
        breaks="Refuses parameters of another dtype than x's.",
        apply=wrap(batch_norm, _one_dtype),
    ),
    Mutant(
        name="hidden-state",
        clause="BN-DET-1",
        breaks="Gives other last bits on every second call.",
        apply=_counting(inverse_stddev, _later_calls_differ),
    ),
    Mutant(
        name="unordered-sums",
        clause="BN-DET-1",
        breaks="Sums in another order each time.",
        apply=_counting(sum_over, _any_order),
    ),
    Mutant(
        name="order-of-memory",
        clause="BN-DET-2",
        breaks="Groups the samples as they lie in memory, not along axis 0.",
        apply=wrap(split, _order_of_memory),
    ),
)
