"""Checks at the sizes where kernels change: each clause holds for arrays of any extent."""

import dataclasses

import numpy as np

from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.cases.inputs.sizes import (
    Size,
    batch_sizes,
    half_sizes,
    inference_sizes,
    part_sizes,
    plain_config,
)
from bnspec_conformance.oracle import float64
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_FORWARD = ("count", "mean", "var", "y")
_GRADIENTS = ("dx", "dgamma", "dbeta")
_TANGENTS = ("ydot", "mean_dot", "var_dot")


def batches(subject: Subject, budget: Budget) -> list[Size]:
    """Return whole batches."""
    return batch_sizes(subject.scope, budget.sizes, budget.seed, compiles=subject.examples < 10)


def halves(subject: Subject, budget: Budget) -> list[Size]:
    """Return whole batches of 16 bits."""
    return half_sizes(subject.scope, budget.sizes, budget.seed, compiles=subject.examples < 10)


def parts(subject: Subject, budget: Budget) -> list[Size]:
    """Return batches with masks and ghost groups."""
    return part_sizes(subject.scope, budget.sizes, budget.seed, compiles=subject.examples < 10)


def inferences(subject: Subject, budget: Budget) -> list[Size]:
    """Return inferences."""
    return inference_sizes(subject.scope, budget.sizes, budget.seed, compiles=subject.examples < 10)


def only(case: Case, *wanted: str) -> Case:
    """Return a case that asks for no more than "gradients", "tangents" and "state", as far as they are wanted."""
    rank = case.ranks[0]
    rank = dataclasses.replace(rank, dy=rank.dy if "gradients" in wanted else None)
    if "tangents" not in wanted:
        case = dataclasses.replace(case, gamma_dot=None, beta_dot=None)
        rank = dataclasses.replace(rank, xdot=None)
    kept = "state" in wanted or case.mode == "inference"
    return dataclasses.replace(case, ranks=(rank,), state=case.state if kept else None)


def _agree(t: Trial, size: Size, fields: tuple[str, ...], *wanted: str) -> None:
    case = only(size.case(t.subject.scope), *wanted)
    t.agree(case, *fields, reference=float64(case))


@clauses("BN-MOM-1", "BN-MOM-2", "BN-MOM-3", "BN-NORM-1")
@explore(sizes=batches)
def test_batch(t: Trial, size: Size) -> None:
    """Statistics and y are right where extents pass a vector, a block or 16 bits."""
    _agree(t, size, _FORWARD)


@clauses("BN-GRAD-1", "BN-GRAD-2", "BN-GRAD-3")
@explore(sizes=batches)
def test_gradients(t: Trial, size: Size) -> None:
    """The same of gradients."""
    _agree(t, size, _GRADIENTS, "gradients")


@clauses("BN-GRAD-4")
@explore(sizes=batches)
def test_tangents(t: Trial, size: Size) -> None:
    """The same of tangents."""
    _agree(t, size, _TANGENTS, "tangents")


@clauses("BN-RUN-1", "BN-RUN-3")
@explore(sizes=batches)
def test_state(t: Trial, size: Size) -> None:
    """The same of the running state."""
    _agree(t, size, ("state",), "state")


@clauses("BN-PREC-2", "BN-PREC-3")
@explore(sizes=halves)
def test_half_precision(t: Trial, size: Size) -> None:
    """In 16 bits, where sums of so many elements overflow or stand still, the same is right as in 32."""
    case, wide = size.case(t.subject.scope), dataclasses.replace(size, dtype="float32").case(t.subject.scope)
    outcome, reference = t.run(case), float64(case)
    with t.found.gathering():
        for fields, clause in (((*_FORWARD, "state"), "BN-PREC-2"), ((*_GRADIENTS, *_TANGENTS), "BN-PREC-3")):
            t.agree(case, *fields, outcome=outcome, reference=reference, proves=(clause,), control=wide)


def counts(subject: Subject, budget: Budget) -> list[tuple[int, int]]:
    """Return rows of a batch, and how many of the further elements of each row are masked."""
    return [(4097, 0), (4097, 2)] if "mask" in subject.scope and subject.examples >= 10 else [(4097, 0)]


@clauses("BN-MOM-1")
@explore(sizes=counts)
def test_count(t: Trial, drawn: tuple[int, int]) -> None:
    """An odd count above 2**24, which float32 cannot hold, is exact; the array is a row with a stride of 0."""
    if not getattr(t.subject, "in_process", True):
        raise NotSupported("it is another process, to which 2**24 elements would travel one by one")
    rows, masked = drawn
    scope, columns = t.subject.scope, rows + masked
    ndim = min(n for n in scope.ndims if n >= 3)
    axis = ndim - 1 if scope.takes_axis(ndim - 1, ndim) else 1
    own = [1] * ndim
    own[2 if axis == 1 else 1] = columns
    whole = [rows, *own[1:]]
    row = (2 * np.random.default_rng(5).integers(-4, 4, own) + 1).astype("float32")
    mask = np.ones(own, bool)
    mask.ravel()[:masked] = False
    inputs = RankInputs(np.broadcast_to(row, whole), mask=np.broadcast_to(mask, whole) if masked else None)
    config, one = plain_config(scope, axis), np.ones(1, "float32")
    count = t.run(Case(config=config, ranks=(inputs,), gamma=one, beta=one)).ranks[0].count
    assert count is not None
    of = f"{columns} elements, {masked} of them masked" if masked else f"{columns} elements"
    t.require(int(count[0]) == rows**2, f"{rows} rows of {of}, are counted as {count[0]}; expected {rows**2}")


@clauses("BN-MASK-1", "BN-MASK-2", "BN-GRP-2")
@explore(sizes=parts)
def test_parts(t: Trial, size: Size) -> None:
    """Statistics and y with masks, and in ghost groups."""
    _agree(t, size, _FORWARD)


@clauses("BN-MASK-4", "BN-GRP-2")
@explore(sizes=parts)
def test_gradients_of_parts(t: Trial, size: Size) -> None:
    """Gradients with masks, and in ghost groups."""
    _agree(t, size, _GRADIENTS, "gradients")


@clauses("BN-RUN-8", "BN-MASK-1")
@explore(sizes=parts)
def test_state_of_parts(t: Trial, size: Size) -> None:
    """The running state with masks, and of ghost groups."""
    _agree(t, size, ("state",), "state")


@clauses("BN-INF-1")
@explore(sizes=inferences)
def test_inference(t: Trial, size: Size) -> None:
    """y by the running statistics."""
    _agree(t, size, ("y",))


@clauses("BN-INF-3")
@explore(sizes=inferences)
def test_derivatives_of_inference(t: Trial, size: Size) -> None:
    """Its derivatives."""
    _agree(t, size, (*_GRADIENTS, "ydot"), "gradients", "tangents")
