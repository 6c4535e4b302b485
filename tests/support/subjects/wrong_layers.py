"""Subjects that are wrong on purpose, for the tests of the probe: bnspec on NumPy with one thing changed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Outcome
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.probe import probe
from bnspec_conformance.probe.predict import EPSILON_PLACES
from bnspec_conformance.subjects import complete
from bnspec_conformance.subjects.own import backends

__all__ = ["OURS", "Wrong", "by_place", "configured", "differing", "each", "measured", "put"]

OURS = backends.numpy()


class Wrong:
    """bnspec on NumPy, with a change to what it is asked or to what it answers."""

    def __init__(self, *, ask: Any = None, answer: Any = None, **attributes: Any) -> None:
        self.name, self.ask, self.answer, self.dialect = "wrong", ask, answer, "bnspec"
        self.scope = Scope(dtypes=("float32",))
        for key, value in attributes.items():
            setattr(self, key, value)

    def supports(self, case: Any) -> Any:
        return self.scope.reason(case)

    def run(self, case: Any) -> Any:
        outcome = OURS.run(self.ask(case) if self.ask else case)
        return self.answer(case, outcome) if self.answer else outcome


def measured(subject: Any, *groups: Any) -> dict[str, Any]:
    """Convention to finding, of all groups or of those named."""
    return {f.convention: f for f in probe(complete(subject, "wrong"), groups or None)}


def differing(subject: Any, *groups: Any) -> dict[str, Any]:
    """Convention to what was measured, where it differs from what is declared."""
    return {name: f.measured for name, f in measured(subject, *groups).items() if f.verdict == "differs"}


def configured(**change: Any) -> Any:
    """Ask for another configuration: values, or functions of the one asked for."""

    def ask(case: Any) -> Any:
        fields = {k: v(case.config) if callable(v) else v for k, v in change.items()}
        return dataclasses.replace(case, config=dataclasses.replace(case.config, **fields))

    return ask


def each(change: Any) -> Callable[..., Any]:
    """Answer what ``change(case, rank inputs, rank outcome)`` makes of each rank."""
    return lambda case, outcome: Outcome(
        tuple(change(case, given, rank) for given, rank in zip(case.ranks, outcome.ranks, strict=True))
    )


def put(case: Any, values: Any) -> Any:
    """A vector per channel, broadcast against x."""
    return values.reshape(
        [-1 if a == case.config.axis % case.ranks[0].x.ndim else 1 for a in range(case.ranks[0].x.ndim)]
    )


def by_place(place: Any, *, variance: int = 0, epsilon: Any = None) -> Any:
    """Normalize with epsilon in another place, by the variance with a correction, or with another epsilon."""

    def answer(case: Any, given: Any, rank: Any) -> Any:
        if case.config.virtual_batch_size is not None or given.x.size == 0:
            return rank
        if case.mode == "inference":
            used = bnspec.running_statistics(bnspec.RunningState(**case.state), case.config)
        else:
            n = int(rank.count[0])
            used = rank.mean[0], rank.var[0] * n / max(n - variance, 1)
        mean, var = (np.asarray(v, np.float64) for v in used)
        added = case.config.epsilon if epsilon is None else epsilon
        deviation = np.asarray([EPSILON_PLACES[place](v, added) for v in var])
        with np.errstate(all="ignore"):  # without an epsilon a constant channel divides by 0
            y = (given.x.astype(np.float64) - put(case, mean)) / put(case, deviation)
        return dataclasses.replace(rank, y=y.astype(given.x.dtype))

    return each(answer)
