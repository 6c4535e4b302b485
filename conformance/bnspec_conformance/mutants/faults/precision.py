"""Mutants of precision: the dtype of sums, statistics, states and casts; and of determinism."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bnspec import _records
from bnspec._batch_norm import batch_norm
from bnspec._derivatives import batch_norm_vjp
from bnspec._errors import refusal
from bnspec._gradients import grad_sums, parameter_gradients
from bnspec._groups import split
from bnspec._kernels import Kernels
from bnspec._moments import moments
from bnspec._normalize import inverse_stddev, normalize, row
from bnspec._precision import arithmetic_dtype, statistics_dtype
from bnspec._sums import sum_over
from bnspec._update import update_running
from bnspec_conformance.mutants.mutant import Apply, Mutant, edit, together, wrap

__all__ = ["MUTANTS"]

_NARROW = 'if dtype_name(value.dtype) in ("float16", "bfloat16"):'
_CAST = "return unsplit(xp.astype(y, x.dtype, copy=False), x)"


def _bfloat16(v: Any) -> Any:
    return np.asarray((np.asarray(v, "float32").view("uint32") & np.uint32(0xFFFF0000)).view("float32"))


def _state_in_16_bits(original: Any, state: Any, *rest: Any, **named: Any) -> Any:
    new = original(state, *rest, **named)
    return new._replace(mean=_bfloat16(new.mean).astype(new.mean.dtype), var=_bfloat16(new.var).astype(new.var.dtype))


def _one_dtype(original: Any, x: Any, params: Any, *rest: Any, **named: Any) -> Any:
    for value in params:
        if value is not None and value.dtype != x.dtype:
            raise refusal(
                TypeError, "BN-PREC-3", got=f"a parameter of {value.dtype}", expected=f"{x.dtype}", do="Cast it."
            )
    return original(x, params, *rest, **named)


def _in_x_dtype(original: Any, parameter: Any, like: Any) -> Any:
    return original(parameter.astype("float16"), like)


def _counting(function: Any, behaviour: Callable[..., Any]) -> Apply:
    """A wrap whose behaviour also gets the number of the call since the mutant was applied."""

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


MUTANTS = (
    Mutant(
        name="float64-in-float32",
        clause="BN-PREC-1",
        row="D12",
        breaks="Computes everything in float32, for float64 x too.",
        apply=edit(arithmetic_dtype, "return xp.float64 if _has_float64(xp) else xp.float32", "return xp.float32"),
    ),
    Mutant(
        name="statistics-in-float32",
        clause="BN-PREC-1",
        row="D12",
        breaks="Computes in float32 where x is float32, although the device has float64.",
        apply=edit(
            arithmetic_dtype,
            "return xp.float64 if _has_float64(xp) else xp.float32",
            'return xp.float64 if dtype_name(x.dtype) == "float64" else xp.float32',
        ),
    ),
    Mutant(
        name="state-in-bfloat16",
        clause="BN-PREC-1",
        row="D12",
        breaks="Cuts the running statistics to the 8 bits of bfloat16.",
        apply=wrap(update_running, _state_in_16_bits),
    ),
    Mutant(
        name="state-in-the-dtype-of-x",
        clause="BN-PREC-1",
        row="D12",
        breaks="Makes the running state of a 16-bit x in 16 bits.",
        apply=together(
            edit(
                statistics_dtype,
                'return xp.float64 if dtype_name(x.dtype) == "float64" else xp.float32',
                'return xp.float16 if dtype_name(x.dtype) in ("float16", "bfloat16") else x.dtype',
            ),
            edit(_records.state, _NARROW, "if False:"),
        ),
    ),
    Mutant(
        name="narrow-state-taken",
        clause="BN-PREC-1",
        row="D12",
        breaks="Takes a running state of 16 bits, whose averages stand still.",
        apply=edit(_records.state, _NARROW, "if False:"),
    ),
    Mutant(
        name="sums-in-16-bits",
        clause="BN-PREC-2",
        row="D12",
        breaks="Sums a 16-bit x in its own dtype.",
        apply=edit(
            moments,
            "return sum_over(values, axes, plain=plain)",
            "return xp.astype(xp.sum(xp.astype(values, x.dtype), axis=axes), dtype)",
        ),
    ),
    Mutant(
        name="squares-in-16-bits",
        clause="BN-PREC-2",
        row="D12",
        breaks="Squares deviations in x's dtype, where they overflow at 65504.",
        apply=edit(
            moments,
            "m2 = sum_over(deviation * deviation,",
            "m2 = sum_over(xp.astype(xp.astype(deviation * deviation, x.dtype), dtype),",
        ),
    ),
    Mutant(
        name="y-rounded-twice",
        clause="BN-PREC-2",
        row="D12",
        breaks="Rounds xhat*gamma to x's dtype before it adds beta.",
        apply=edit(
            normalize,
            "y = (v - spread(centre, x, groups)) * spread(scale, x, groups) + spread(shift, x, groups)",
            "y = xp.astype((v - spread(centre, x, groups)) * spread(scale, x, groups), x.dtype)\n"
            "    y = xp.astype(y, arithmetic_dtype(x)) + spread(shift, x, groups)",
        ),
    ),
    Mutant(
        name="y-rounded-to-zero",
        clause="BN-PREC-2",
        row="D12",
        breaks="Cuts y off where it should round to nearest.",
        apply=edit(
            normalize,
            _CAST,
            "near = xp.astype(y, x.dtype)\n"
            "    wide = xp.astype(near, y.dtype)\n"
            "    down = xp.nextafter(near, xp.zeros_like(near))\n"
            "    return unsplit(xp.where(xp.abs(wide) > xp.abs(y), down, near), x)",
        ),
    ),
    Mutant(
        name="gradient-sums-in-16-bits",
        clause="BN-PREC-3",
        row="D12",
        breaks="Sums g in dy's dtype.",
        apply=edit(
            grad_sums,
            "return sum_over(g, axes, plain=plain),",
            "return xp.astype(xp.sum(xp.astype(g, dy.dtype), axis=axes), dtype),",
        ),
    ),
    Mutant(
        name="dgamma-rounded-twice",
        clause="BN-PREC-3",
        row="D12",
        breaks="Rounds dgamma to x's dtype before it is cast to gamma's.",
        apply=edit(
            parameter_gradients,
            "dgamma = xp.astype(xp.sum(each, axis=0),",
            "dgamma = xp.astype(xp.astype(xp.sum(each, axis=0), saved.x.dtype),",
        ),
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
        apply=edit(
            Kernels.infer,
            "xp.astype(v, dtype)[None, :]",
            "xp.astype(xp.astype(v, x.dtype), dtype)[None, :]",
        ),
    ),
    Mutant(
        name="parameters-rounded",
        clause="BN-PREC-3",
        row="D12",
        breaks="Takes gamma and beta in half precision.",
        apply=wrap(row, _in_x_dtype),
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
        apply=edit(
            split,
            "return xp.reshape(x, (groups.number, samples, *x.shape[1:]))",
            "if x.ndim > 1 and x.flags.f_contiguous and not x.flags.c_contiguous:\n"
            "        return x.ravel(order='K').reshape(groups.number, samples, *x.shape[1:])\n"
            "    return xp.reshape(x, (groups.number, samples, *x.shape[1:]))",
        ),
    ),
)
