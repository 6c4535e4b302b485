"""Vectors of the running state at its edges: one value, no value, values that are not finite, full counters."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import RankInputs
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import parts
from bnspec_conformance.vectors.vector import Pair, Vector

__all__ = ["vectors"]

_AVERAGINGS: tuple[Any, ...] = ("exponential", "cumulative", "pooled", "debiased")
_SOURCES: tuple[Any, ...] = ("first", "mean", "merged", "sequential")


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the edges of the family "running"."""
    yield from _single_value(draw)
    yield from _nothing(draw)
    yield from _not_finite(draw)
    yield from _counters(draw)


def _single_value(draw: Draw) -> Iterator[Vector]:
    for policy, averagings in (("keep", ("exponential", "pooled")), ("floor", _AVERAGINGS)):
        for averaging in averagings:
            yield draw.vector(
                f"running/one-value-{policy}-{averaging}",
                f"One value per channel, correction 1, {policy}, {averaging}: a port that divides by 0.",
                (1, 3),
                state="fresh" if averaging == "pooled" else "used",
                averaging=averaging,
                correction=1,
                single_value=policy,
                outputs=("y", "state"),
                clauses={"state": ("BN-RUN-4",)},
                exact=("y", "state.var") if policy == "keep" else ("y",),
            )
    mask = [True, False, True, True]
    for policy, source in (("keep", "mean"), ("floor", "mean"), ("keep", "sequential"), ("floor", "sequential")):
        yield draw.vector(
            f"running/one-value-{policy}-in-one-group-{source}",
            f"One group of two has a single value, correction 1, {policy}, {source}.",
            (4, 2),
            masks=(mask,),
            state="used",
            correction=1,
            single_value=policy,
            ghost_source=source,
            virtual_batch_size=2,
            outputs=("count", "state"),
            clauses={"state": ("BN-RUN-4", "BN-RUN-8")},
        )
    yield draw.vector(
        "running/one-value-without-correction",
        "One value per channel and correction 0: its variance 0 enters the state as any other.",
        (1, 3),
        state="used",
        outputs=("state",),
        clauses={"state": ("BN-RUN-4",)},
    )


def _nothing(draw: Draw) -> Iterator[Vector]:
    for averaging in _AVERAGINGS:
        yield draw.vector(
            f"running/no-samples-{averaging}",
            f"A batch without samples leaves the state to the bit, {averaging}: a port that counts it.",
            (0, 3),
            state="used",
            averaging=averaging,
            outputs=("count", "state"),
            clauses={"state": ("BN-RUN-9",)},
            exact=("state",),
        )
    for source in _SOURCES:
        yield draw.vector(
            f"running/no-groups-{source}",
            f"No samples and so no groups, source {source}: nothing to take the first of, or a mean over.",
            (0, 2),
            state="used",
            virtual_batch_size=2,
            ghost_source=source,
            outputs=("count", "state"),
            clauses={"state": ("BN-RUN-9",)},
            exact=("state",),
        )
        yield draw.vector(
            f"running/empty-first-group-{source}",
            f"The first of three groups is masked throughout, source {source}: an empty group is no group of mean 0.",
            (6, 2),
            masks=([False, False, True, True, True, False],),
            state="used",
            virtual_batch_size=2,
            ghost_source=source,
            averaging="exponential" if source == "mean" else "cumulative",
            outputs=("count", "state"),
            clauses={"state": ("BN-RUN-8", "BN-RUN-9")},
            exact=("state",) if source == "first" else (),
        )


def _not_finite(draw: Draw) -> Iterator[Vector]:
    for averaging in _AVERAGINGS:
        base = draw.vector(
            f"running/finite-{averaging}",
            "A finite batch; the next ones have a NaN and an infinity in it.",
            (4, 3),
            state="used",
            averaging=averaging,
            outputs=("state",),
        )
        yield base
        x = base.case.ranks[0].x.copy()
        x[1, 0], x[2, 1] = np.nan, np.inf
        names = ["mean", "var", *(["count"] if averaging != "exponential" else [])]
        third = [Pair(f"state.{n}", f"state.{n}", take=(2,), with_take=(2,)) for n in names]
        for policy in ("propagate", "skip"):
            config = dataclasses.replace(base.case.config, nonfinite=policy)
            yield base.but(
                f"not-finite-{policy}-{averaging}",
                f"A NaN and an infinity in two channels, {policy}, {averaging}: "
                + ("they enter these channels" if policy == "propagate" else "these channels keep every array")
                + " and no other.",
                case=dataclasses.replace(base.case, config=config, ranks=(RankInputs(x),)),
                clauses={"state": ("BN-RUN-10",)},
                relations=(parts("isolation", base.id, third, "BN-RUN-10 BN-MOM-9", to_the_bit=True),),
            )


def _counters(draw: Draw) -> Iterator[Vector]:
    top = np.iinfo(np.int32).max
    for averaging, short in (("cumulative", 0), ("cumulative", 1), ("debiased", 0), ("pooled", 2), ("pooled", 0)):
        yield draw.vector(
            f"running/counter-{averaging}-{short}-below-the-top",
            f"An int32 counter {short} below its largest value, {averaging}: a port that wraps around.",
            (4, 2),
            state={"count": np.full(2, top - short, np.int32)},
            averaging=averaging,
            outputs=("state",),
            clauses={"state": ("BN-RUN-13",)},
        )
    yield draw.vector(
        "running/counters-per-channel",
        "Channels that have seen different numbers of batches: a port with one counter for all.",
        (4, 3),
        state={"count": np.array([1, 7, 40])},
        averaging="cumulative",
        outputs=("state",),
    )
