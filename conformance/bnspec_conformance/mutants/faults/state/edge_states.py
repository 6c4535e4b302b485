"""Mutants of running states at the edge of what they may be: 0, NaN, huge numbers, counts beyond a float."""

from typing import Any

import numpy as np

from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import override

__all__ = ["MUTANTS"]


def _zero_is_new(original: Any, x: Any, params: Any, mean: Any, var: Any, *rest: Any) -> Any:
    return original(x, params, mean, np.where(var == 0, np.ones_like(var), var), *rest)


def _floor_of_largest(original: Any, x: Any, params: Any, mean: Any, var: Any, *rest: Any) -> Any:
    """Keep a variance above a tiny part of the largest one, which NaN turns into NaN everywhere."""
    floor = np.max(var, initial=0.0).astype(var.dtype) * var.dtype.type(2.0**-300)
    return original(x, params, mean, var + floor, *rest)


def _product_of_variances(original: Any, x: Any, params: Any, mean: Any, var: Any, *rest: Any) -> Any:
    """Take the variance for the root of its square, which overflows from 1.8e19 on."""
    return original(x, params, mean, np.sqrt(var * var), *rest)


def _nan_restarts(original: Any, state: Any, stats: Any, *rest: Any, **named: Any) -> Any:
    lost = np.isnan(state.mean)
    if not lost.any():
        return original(state, stats, *rest, **named)
    return original(state._replace(mean=np.where(lost, np.zeros_like(state.mean), state.mean)), stats, *rest, **named)


def _counter_in_float32(original: Any, state: Any, *rest: Any, **named: Any) -> Any:
    if state.count is None:
        return original(state, *rest, **named)
    low = np.minimum(state.count, 2**30)  # a conversion back of more could overflow
    count = np.where(state.count > low, state.count, low.astype("float32").astype(state.count.dtype))
    return original(state._replace(count=count), *rest, **named)


MUTANTS = (
    Mutant(
        name="variance-zero-is-new",
        clause="BN-INF-1",
        breaks="Takes a running variance of 0 for a state that was never updated, and 1 for it.",
        apply=override(infer=_zero_is_new),
    ),
    Mutant(
        name="nan-in-every-channel",
        clause="BN-INF-1",
        breaks="Compares running variances with the largest one, so that NaN in one channel is NaN in all.",
        apply=override(infer=_floor_of_largest),
    ),
    Mutant(
        name="square-of-a-variance",
        clause="BN-INF-1",
        breaks="Squares the running variance on its way, which overflows from 1.8e19 on.",
        apply=override(infer=_product_of_variances),
    ),
    Mutant(
        name="nan-restarts",
        clause="BN-RUN-1",
        breaks="Takes a running mean of NaN for 0 when it is updated.",
        apply=override(update=_nan_restarts),
    ),
    Mutant(
        name="counter-in-float32",
        clause="BN-RUN-6",
        breaks="Holds the counter of a state in float32, where odd numbers end at 2**24.",
        apply=override(update=_counter_in_float32),
    ),
)
