"""Checks of running states at the edge of what they may be, each channel in a state of its own."""

import dataclasses
import math
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.cases.sizes import plain_config
from bnspec_conformance.checks.examples import example
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

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


def averagings(t: Trial) -> tuple[str, ...]:
    """Return those that the subject has."""
    allowed = t.subject.scope.options.get("averaging", _AVERAGINGS)
    return tuple(name for name in _AVERAGINGS if name in allowed)


@clauses("BN-RUN-1", "BN-RUN-3", "BN-RUN-5", "BN-RUN-6", "BN-RUN-7")
@explore()
def test_update(t: Trial) -> None:
    """A variance of 0, huge or tiny, NaN in one channel, and any count are updated like every other state."""
    cases = [edge_case(t, averaging=name) for name in averagings(t)]
    with t.found.gathering():
        for case in t.inside(dataclasses.replace(c, note="a state at the edge") for c in cases):
            t.agree(case, "state")


@clauses("BN-INF-1", "BN-INF-3")
@explore()
def test_inference(t: Trial) -> None:
    """The same states normalize, and are derived: a channel without a number gives none, every other one does."""
    cases = []
    for name in averagings(t):
        case = edge_case(t, averaging=name)
        state = dict(case.state or {})
        if name == "debiased":  # for 0 updates, for some, and for so many that decay**count is 0
            state["count"] = np.asarray([0, 1, 2, 3, 4, 300, 7, 8, 3000], "int64")
        frozen = {"mode": "inference", "dmean": None, "dvar": None, "note": "a state at the edge"}
        cases.append(dataclasses.replace(case, state=state, **frozen))
    for case in t.inside(cases):
        t.agree(case, "y", "dx", "dgamma", "dbeta", "ydot")


@clauses("BN-RENORM-1", "BN-RENORM-2", "BN-RENORM-5", "BN-RENORM-6", "BN-RENORM-7")
@explore()
def test_renorm(t: Trial) -> None:
    """A reference deviation of 0, huge, tiny or NaN: s is at least sqrt(epsilon), and r and d are clipped."""
    limits = {"rmax": 3.0, "dmax": 5.0, "decay": 0.5}
    cases = [edge_case(t, renorm=Renorm(form=form, **limits)) for form in ("tensorpack", "paper")]  # type: ignore[arg-type]
    for case in t.inside(dataclasses.replace(c, note="a state at the edge") for c in cases):
        t.agree(case, "y", "dx", "dgamma", "state")
