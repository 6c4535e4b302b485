"""Checks of BN-GRAD-7: what the array library itself makes of the operation's first and second derivatives."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from hypothesis import strategies as st

import bnspec
from bnspec_conformance.bounds import bounds
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.cases.layout import layouts
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.derivatives.autodiff import library_derivatives
from bnspec_conformance.oracle import Direction, central_difference, direction, exact, in_float64
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_SEED = 11


def variants(subject: Subject) -> st.SearchStrategy[tuple[Case, ...]]:
    """Cases in float64: plain, in ghost groups, with a mask, and with renorm."""
    if subject.backend is not None and subject.backend.name not in ("torch", "jax"):
        raise NotSupported(f"{subject.name} does not differentiate")
    kinds: tuple[dict[str, bool], ...] = ({}, {"ghost": True}, {"mask": True}, {"renorm": True})
    if subject.examples < 10:  # each shape compiles: at once what can be told apart
        kinds = ({"mask": True, "renorm": True},)
    common: dict[str, Any] = {
        "dtype": np.dtype("float64"),
        "plain": True,
        "center": True,
        "scale": True,
        "epsilon": 0.125,
    }
    each = (strategies.cases(subject, derivatives=True, statistics=True, **common, **kind) for kind in kinds)
    return st.tuples(*each).map(lambda cases: tuple(dataclasses.replace(c, update=False) for c in cases))


def packed(case: Case, along: Direction) -> tuple[Array, Array]:
    """x, gamma and beta as one vector, and the direction in the same order."""
    assert case.gamma is not None and case.beta is not None
    at = np.concatenate([case.ranks[0].x.ravel(), case.gamma, case.beta])
    return at, np.concatenate([along.x[0].ravel(), along.gamma, along.beta])


def loss_of(case: Case, backend: Any) -> Callable[[Any], Any]:
    """sum dy*y + sum dmean*mean + sum dvar*var as a function of the packed vector."""
    put = backend.asarray
    rank, shape = case.ranks[0], case.ranks[0].x.shape
    assert case.dmean is not None and case.dvar is not None
    state = None if case.state is None else bnspec.RunningState(**{k: put(v) for k, v in case.state.items()})
    dy, dmean, dvar = put(rank.dy), put(case.dmean[0]), put(case.dvar[0])
    mask = None if rank.mask is None else put(rank.mask)

    def loss(z: Any) -> Any:
        size, c = rank.x.size, case.channels
        params = bnspec.Params(z[size : size + c], z[size + c :])
        x = array_namespace(z).reshape(z[:size], shape)
        y, stats, _ = bnspec.batch_norm(x, params, case.config, state=state, mask=mask)
        return (dy * y).sum() + (dmean * (stats.mean + stats.mean_low)).sum() + (dvar * stats.var).sum()

    return loss


def unpacked(case: Case, z: Array) -> Outcome:
    """Return the packed gradient as an outcome."""
    size, c = case.ranks[0].x.size, case.channels
    found = RankOutcome(dx=z[:size].reshape(case.ranks[0].x.shape), dgamma=z[size : size + c], dbeta=z[size + c :])
    return Outcome((found,))


def vjp(case: Case, z: Array, corrections: in_float64.Corrections) -> Array:
    """Return the oracle's gradient at the packed vector, renorm's corrections held at their values."""
    size, c = case.ranks[0].x.size, case.channels
    rank = dataclasses.replace(case.ranks[0], x=z[:size].reshape(case.ranks[0].x.shape), xdot=None)
    moved = dataclasses.replace(
        case, ranks=(rank,), gamma=z[size : size + c], beta=z[size + c :], gamma_dot=None, beta_dot=None
    )
    return flat(in_float64.batch(moved, corrections))


def flat(outcome: Outcome) -> Array:
    """Return the gradients of an outcome, packed."""
    rank = outcome.ranks[0]
    assert rank.dx is not None and rank.dgamma is not None and rank.dbeta is not None
    return np.concatenate([as_float64(rank.dx).ravel(), as_float64(rank.dgamma), as_float64(rank.dbeta)])


def quotient(f: Callable[[Array], Array], at: Array, along: Array, noise: Array) -> tuple[Array, Array]:
    """Derivative of an array function along a direction by extrapolated central differences; its error.

    The error is estimated per element: the smallest spread of the extrapolation plus the noise of f by the step.
    """
    best, error = np.zeros_like(noise), np.full_like(noise, np.inf)
    table: list[list[Array]] = []
    step = 2.0**-3
    for row in range(8):
        entries = [(f(at + step * along) - f(at - step * along)) / (2 * step)]
        for column in range(row):
            factor = 4.0 ** (column + 1)
            entries.append((factor * entries[column] - table[-1][column]) / (factor - 1))
            change = (
                np.maximum(np.abs(entries[-1] - entries[column]), np.abs(entries[-1] - table[-1][column]))
                + noise / step
            )
            best, error = np.where(change < error, entries[-1], best), np.minimum(change, error)
        table.append(entries)
        step /= 2
    return best, error


def corrections_of(case: Case) -> in_float64.Corrections:
    """Renorm's r and d at the case's values; 1 and 0 without renorm."""
    joined = in_float64.moments(case, list(layouts(case)))
    return in_float64.correct(case, joined.mean, 1.0 / np.sqrt(joined.var + case.config.epsilon))


def derivatives(t: Trial, case: Case) -> tuple[Array, Array, Array]:
    """Return the library's gradient and its Hessian times a direction, packed, and the direction."""
    backend = t.needs_backend()
    wide: Any = contextlib.nullcontext()
    compiled: Callable[[Any], Any] = lambda loss: loss  # noqa: E731
    if backend.name == "jax":
        import jax

        wide, compiled = jax.enable_x64(True), jax.jit  # one program compiles sooner than its many operations
    at, along = packed(case, direction(case, _SEED))
    with wide:
        first, second = library_derivatives(backend, compiled(loss_of(case, backend)), at, along)
        return np.array(first), np.array(second), along


@clauses("BN-GRAD-7")
@explore(variants, share=0.1)
def test_library_differentiates(t: Trial, cases: tuple[Case, ...]) -> None:
    """First derivatives by the library are those of the formulas, second ones the derivatives of the formulas."""
    t.needs_backend()
    wide = t.beside(arithmetic="float64")
    for case in cases:
        first, second, along = derivatives(t, case)
        reference = exact(case)
        wide.agree(case, "dx", "dgamma", "dbeta", outcome=unpacked(case, first), reference=reference)
        allowed = flat(bounds(case, reference, "float64", t.subject.flushes))
        value, error = central_difference(case, _SEED)
        slope = float(np.abs(allowed) @ np.abs(along))
        t.within(
            np.asarray([first @ along]),
            np.asarray([value]),
            np.asarray([error + slope]),
            "sum of gradient*direction",
            case,
        )
        corrections = corrections_of(case)
        at, _ = packed(case, direction(case, _SEED))
        want, spread = quotient(lambda z: vjp(case, z, corrections), at, along, allowed)  # noqa: B023
        t.within(second, want, spread, "second derivative along a direction", case)
    t.absorb(wide)
