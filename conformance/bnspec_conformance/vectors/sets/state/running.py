"""Vectors of the running state: every averaging with every ghost source and correction."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import RankInputs
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import equal
from bnspec_conformance.vectors.vector import Vector

__all__ = ["vectors"]

_AVERAGINGS: tuple[Any, ...] = ("exponential", "cumulative", "pooled", "debiased")
_SOURCES: tuple[Any, ...] = ("first", "mean", "merged", "sequential")
_WHAT = {
    "exponential": "the old value keeps the weight decay",
    "cumulative": "every batch has the same weight",
    "pooled": "every element has the same weight",
    "debiased": "the accumulators start from 0",
    "first": "the first group alone feeds it",
    "mean": "the plain mean of the groups' means and variances feeds it",
    "merged": "all groups as one set feed it",
    "sequential": "one update follows for each group",
}


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "running", but for its edges."""
    yield from _grid(draw)
    yield from _plain(draw)
    yield from _weights(draw)


def _grid(draw: Draw) -> Iterator[Vector]:
    for averaging in _AVERAGINGS:
        for source in _SOURCES:
            if (averaging, source) == ("pooled", "mean"):  # refused
                continue
            for correction in (0, 1):
                yield draw.vector(
                    f"running/{averaging}-{source}-correction-{correction}",
                    f"{averaging}, {source}, correction {correction}: {_WHAT[averaging]}, {_WHAT[source]}.",
                    (6, 2, 2),
                    state="used",
                    outputs=("state",),
                    clauses={"state": _clauses(averaging, "BN-RUN-8", *(("BN-RUN-3",) if correction else ()))},
                    averaging=averaging,
                    ghost_source=source,
                    correction=correction,
                    virtual_batch_size=2,
                )


def _clauses(averaging: str, *more: str) -> tuple[str, ...]:
    number = {"exponential": 1, "cumulative": 5, "pooled": 6, "debiased": 7}[averaging]
    return (f"BN-RUN-{number}", *more)


def _plain(draw: Draw) -> Iterator[Vector]:
    """Without groups: fresh states, dtypes, a state far away, and the sources that then do not differ."""
    for averaging in _AVERAGINGS:
        yield draw.vector(
            f"running/{averaging}-fresh",
            f"{averaging}, the first update of a new state: a port that starts elsewhere than SPEC.md says.",
            (5, 3),
            state="fresh",
            outputs=("mean", "var", "state"),
            averaging=averaging,
            clauses={"state": _clauses(averaging, "BN-RUN-2")},
        )
        yield draw.vector(
            f"running/{averaging}-float64",
            f"{averaging} for float64 x, whose state is float64: a port that keeps it in float32.",
            (5, 2),
            dtype="float64",
            state="used",
            outputs=("state",),
            averaging=averaging,
            correction=1,
        )
        yield draw.vector(
            f"running/{averaging}-float16",
            f"{averaging} for float16 x, whose state is float32: a port that keeps it in 16 bits.",
            (5, 2),
            dtype="float16",
            state="used",
            outputs=("state",),
            averaging=averaging,
            clauses={"state": _clauses(averaging, "BN-PREC-1")},
        )
        yield draw.vector(
            f"running/{averaging}-pixels",
            f"{averaging} where the count is samples times pixels: a port that corrects, or weighs, by samples.",
            (2, 2, 3),
            state="used",
            outputs=("count", "state"),
            averaging=averaging,
            correction=1,
            clauses={"state": _clauses(averaging, "BN-RUN-3")},
        )
        stream = draw.stream(f"running/{averaging}-far")
        yield draw.vector(
            f"running/{averaging}-far",
            f"{averaging} with means far from zero: a port that averages E[x^2].",
            (6, 2),
            x=stream.normals((6, 2)) + np.array([3000.0, -50000.0]),
            state={"mean": [3001.0, -50003.0]},
            outputs=("state",),
            averaging=averaging,
        )
        alone = draw.vector(
            f"running/{averaging}-one-group-first",
            "One group: the four sources are then the same.",
            (4, 2),
            state="used",
            outputs=("state",),
            averaging=averaging,
            virtual_batch_size=4,
        )
        yield alone
        for source in _SOURCES[1:]:
            if (averaging, source) == ("pooled", "mean"):
                continue
            names = "state.mean state.var" + ("" if averaging == "exponential" else " state.count")
            yield alone.but(
                f"{averaging}-one-group-{source}",
                f"One group under the source {source}: the same as under first.",
                case=dataclasses.replace(
                    alone.case, config=dataclasses.replace(alone.case.config, ghost_source=source)
                ),
                relations=(equal("one group", alone.id, names, "BN-RUN-8"),),
            )
    for decay in (0.9, 0.999, 0.5, 0.125):
        yield draw.vector(
            f"running/decay-{decay:g}",
            f"decay {decay:g} is the weight of the old value: a port that gives it to the new one.",
            (4, 2),
            state="used",
            outputs=("state",),
            decay=decay,
        )


def _weights(draw: Draw) -> Iterator[Vector]:
    shape = (4, 3)
    base = draw.vector("running/decay-1", "decay 1: the old value stays, to the bit.", shape, state="used", decay=1.0)
    keep = dataclasses.replace(base, outputs=("state",), clauses={"state": ("BN-RUN-11",)}, exact=("state",))
    yield keep
    x = keep.case.ranks[0].x.copy()
    x[0] = [np.nan, np.inf, 1.0]
    yield keep.but(
        "decay-1-not-finite",
        "decay 1 against a batch that is not finite: a port that multiplies it by 0.",
        case=dataclasses.replace(keep.case, ranks=(RankInputs(x),)),
    )
    whole = np.array([[0, 4, -3], [2, 4, 1], [0, 4, 1], [2, 4, -3]])
    yield draw.vector(
        "running/decay-0",
        "decay 0 takes the batch's value, to the bit.",
        shape,
        x=whole,
        state="used",
        decay=0.0,
        outputs=("state",),
        clauses={"state": ("BN-RUN-11",)},
        exact=("state",),
    )
    yield draw.vector(
        "running/decay-0-from-nan",
        "decay 0 from a state that is not finite: a port that adds 0 times NaN.",
        shape,
        x=whole,
        state={"mean": [np.nan, -np.inf, 0], "var": [np.nan, np.inf, np.nan]},
        decay=0.0,
        outputs=("state",),
        clauses={"state": ("BN-RUN-11",)},
        exact=("state",),
    )
