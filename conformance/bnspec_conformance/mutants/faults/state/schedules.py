"""Mutants of numbers that are given with a call: ignored, taken for one another, or not refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

from bnspec import BatchNormConfig, Schedule
from bnspec._schedule import scheduled
from bnspec_conformance.mutants.mutant import Apply, Mutant
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _given(change: Callable[[Schedule], Schedule]) -> Apply:
    """Read another schedule than the one that was given."""

    def behaviour(original: Any, config: Any, schedule: Any, *more: Any) -> Any:
        return original(config, None if schedule is None else change(schedule), *more)

    return wrap(scheduled, behaviour)


def _swapped(schedule: Schedule) -> Schedule:
    if schedule.rmax is None or schedule.dmax is None:
        return schedule
    return schedule._replace(rmax=1.0 + schedule.dmax, dmax=schedule.rmax - 1.0)


def _clipped(schedule: Schedule) -> Schedule:
    rmax, dmax, decay = schedule
    return Schedule(
        None if rmax is None else max(float(rmax), 1.0),
        None if dmax is None else max(float(dmax), 0.0),
        None if decay is None else min(max(float(decay), 0.0), 1.0),
    )


def _for_renorm_too(original: Any, config: BatchNormConfig, schedule: Any, *more: Any) -> Any:
    found, known = original(config, schedule, *more)
    if schedule is None or schedule.decay is None or found.renorm is None:
        return found, known
    return dataclasses.replace(found, renorm=dataclasses.replace(found.renorm, decay=found.decay)), known


MUTANTS = (
    Mutant(
        name="schedule-ignored",
        clause="BN-RENORM-9",
        breaks="Takes the limits of the configuration whatever the call gives.",
        apply=_given(lambda given: given._replace(rmax=None, dmax=None)),
    ),
    Mutant(
        name="schedule-with-one-limit",
        clause="BN-RENORM-9",
        breaks="Takes dmax from the configuration whatever the call gives.",
        apply=_given(lambda given: given._replace(dmax=None)),
    ),
    Mutant(
        name="schedule-swaps-limits",
        clause="BN-RENORM-9",
        breaks="Takes each limit of a call for the other.",
        apply=_given(_swapped),
    ),
    Mutant(
        name="schedule-clipped",
        clause="BN-RENORM-9",
        breaks="Brings a limit of a call into its range, in the place of a refusal.",
        apply=_given(lambda given: _clipped(given)._replace(decay=given.decay)),
    ),
    Mutant(
        name="schedule-decay-ignored",
        clause="BN-RUN-1",
        breaks="Averages with the decay of the configuration whatever the call gives.",
        apply=_given(lambda given: given._replace(decay=None)),
    ),
    Mutant(
        name="schedule-decay-clipped",
        clause="BN-RUN-1",
        breaks="Brings a decay of a call into its range, in the place of a refusal.",
        apply=_given(lambda given: given._replace(decay=_clipped(given).decay)),
    ),
    Mutant(
        name="schedule-decay-for-renorm",
        clause="BN-RUN-1",
        breaks="Averages the reference of renorm with the decay that a call gives for the layer's.",
        apply=wrap(scheduled, _for_renorm_too),
    ),
)
