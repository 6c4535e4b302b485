"""Checks of running states at the edge of what they may be, each channel in a state of its own."""

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.cases.inputs.sizes import plain_config
from bnspec_conformance.checks.examples import example
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import NeverSupported, Trial

#: Mean, variance (or the square of a deviation) of a channel; the ordinary ones show that no other channel matters.
_EDGES: tuple[tuple[float, float], ...] = (
    (0.5, 2.0),
    (1.5, 0.0),
    (-0.0, -0.0),
    (0.25, 1e38),
    (-0.75, 1e-38),
    (3e38, 3e38),
    (math.nan, 1.5),
    (1.25, math.nan),
    (-1.5, 0.5),
)
#: Counts of the same channels. The last is odd and has more digits than float64, the one before it than float32.
_COUNTS = (0, 1, 2, 3, 65535, 65537, 2**24 + 1, 2**31 - 9, 2**53 + 1)
_AVERAGINGS = ("exponential", "cumulative", "pooled", "debiased")


def edge_case(t: Trial, **fields: Any) -> Case:
    """Return a batch of float32 and a state in which each channel is at an edge."""
    scope = t.subject.scope
    config = dataclasses.replace(plain_config(scope, 1), **fields)
    case = scope.arrange(example(config, [(4, len(_EDGES), 2, 2)]))
    mean, var = (np.asarray(v, "float32") for v in zip(*_EDGES, strict=True))
    state: dict[str, Array] = {"mean": mean, "var": var}
    if config.counts_updates:
        narrow = t.subject.arithmetic == "float32"  # such a device may have no counter of 64 bits
        state["count"] = np.asarray([min(n, 2**30 + 1) if narrow else n for n in _COUNTS], "int64")
    if config.renorm is not None:
        deviation = np.sqrt(var)
        state["stddev"] = deviation
        if config.renorm.form == "tensorpack":
            state |= {"renorm_mean": mean[::-1].copy(), "renorm_stddev": deviation[::-1].copy()}
    return dataclasses.replace(case, state=state)


def has(t: Trial, averaging: str) -> bool:
    """Return whether the subject has an averaging."""
    return averaging in t.subject.scope.options.get("averaging", _AVERAGINGS)


def _update(t: Trial, averaging: str) -> None:
    if not has(t, averaging):
        raise NeverSupported(f"it has no averaging={averaging!r}")
    case = dataclasses.replace(edge_case(t, averaging=averaging), note="a state at the edge")
    t.agree(case, "state")


@clauses("BN-RUN-1", "BN-RUN-3")
@explore()
def test_exponential(t: Trial) -> None:
    """A variance of 0, huge or tiny, and NaN in one channel are averaged like every other state."""
    _update(t, "exponential")


@clauses("BN-RUN-5")
@explore()
def test_cumulative(t: Trial) -> None:
    """The same, and counts from 0 to more than a float holds."""
    _update(t, "cumulative")


@clauses("BN-RUN-6")
@explore()
def test_pooled(t: Trial) -> None:
    """The same, with counts of elements."""
    _update(t, "pooled")


@clauses("BN-RUN-7")
@explore()
def test_debiased(t: Trial) -> None:
    """The same, for accumulators."""
    _update(t, "debiased")


@clauses("BN-INF-1", "BN-INF-3")
@explore()
def test_inference(t: Trial) -> None:
    """The same states normalize, and are derived: a channel without a number gives none, every other one does."""
    cases = []
    for name in (name for name in _AVERAGINGS if has(t, name)):
        case = edge_case(t, averaging=name)
        state = dict(case.state or {})
        if name == "debiased":  # for 0 updates, for some, and for so many that decay**count is 0
            state["count"] = np.asarray([0, 1, 2, 3, 4, 300, 7, 8, 3000], "int64")
        frozen = dataclasses.replace(case, mode="inference", state=state, dmean=None, dvar=None)
        cases.append(dataclasses.replace(frozen, note="a state at the edge"))
    for case in t.inside(cases):
        t.agree(case, "y", "dx", "dgamma", "dbeta", "ydot")


def _renorm(t: Trial, form: Literal["tensorpack", "paper"]) -> None:
    case = edge_case(t, renorm=Renorm(form=form, rmax=3.0, dmax=5.0, decay=0.5))
    t.agree(dataclasses.replace(case, note="a state at the edge"), "y", "dx", "dgamma", "state")


@clauses("BN-RENORM-1", "BN-RENORM-2", "BN-RENORM-5", "BN-RENORM-7")
@explore()
def test_renorm(t: Trial) -> None:
    """A reference deviation of 0, huge, tiny or NaN: s is at least sqrt(epsilon), and r and d are clipped."""
    _renorm(t, "tensorpack")


@clauses("BN-RENORM-1", "BN-RENORM-2", "BN-RENORM-6", "BN-RENORM-7")
@explore()
def test_renorm_of_the_paper(t: Trial) -> None:
    """The same in the form of the paper."""
    _renorm(t, "paper")
