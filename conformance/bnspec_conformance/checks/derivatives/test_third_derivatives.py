"""Check of BN-GRAD-7 at third order, where libraries go wrong that are right at first and second."""

import contextlib
import dataclasses
from typing import Any

import numpy as np

from bnspec_conformance.bounds import bounds
from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.checks.derivatives.autodiff import third_derivative
from bnspec_conformance.checks.derivatives.test_autodiff import (
    corrections_of,
    flat,
    loss_of,
    packed,
    quotient,
    variants,
)
from bnspec_conformance.oracle import direction, exact
from bnspec_conformance.oracle.in_float64 import Corrections
from bnspec_conformance.oracle.series import gradient_series
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_SEED = 12


def hessian_along(case: Case, z: Array, along: Array, corrections: Corrections) -> Array:
    """Return the Hessian at a packed vector times a direction, without differences."""
    size, c = case.ranks[0].x.size, case.channels
    shape = case.ranks[0].x.shape
    rank = dataclasses.replace(case.ranks[0], x=z[:size].reshape(shape))
    moved = dataclasses.replace(case, ranks=(rank,), gamma=z[size : size + c])
    dx, dgamma = gradient_series(moved, along[:size].reshape(shape), along[size : size + c], corrections, 1)
    # dbeta is the sum of g: it depends on nothing here.
    return np.concatenate([dx.derivative(1).ravel(), dgamma.derivative(1), np.zeros(c)])


@clauses("BN-GRAD-7")
@explore(variants, share=0.1)
def test_third_derivatives(t: Trial, cases: tuple[Case, ...]) -> None:
    """Derivatives of third order by the library are those of the formulas, to which renorm's r and d are constants."""
    backend = t.needs_backend()
    wide: Any = contextlib.nullcontext()
    if backend.name == "jax":
        import jax

        wide = jax.enable_x64(True)
    for case in cases:
        at, along = packed(case, direction(case, _SEED))
        with wide:
            third = np.array(third_derivative(backend, loss_of(case, backend), at, along))
        corrections = corrections_of(case)

        def second(z: Array, case: Case = case, along: Array = along, held: Corrections = corrections) -> Array:
            return hessian_along(case, z, along, held)

        # A direction moves each channel by its deviation, so one order more is as large, and errs by as much.
        noise = flat(bounds(case, exact(case), "float64", t.subject.flushes))
        largest = np.max(np.abs(second(at)), initial=0.0)
        noise = noise + 2.0**-53 * (len(at) / max(case.channels, 1)) * largest
        want, spread = quotient(second, at, along, noise)
        t.within(third, want, spread, "third derivative along a direction", case)
