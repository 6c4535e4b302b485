"""Subjects that misbehave in every way a Python object can, for the tests of the suite itself."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec_conformance import Case, Outcome, find_subject
from bnspec_conformance.cases.scope import Scope

__all__ = ["Hostile", "KINDS", "made"]


class Hostile:
    """The NumPy subject's outcomes, or what is done instead of giving them."""

    examples = 3
    scope = Scope(profiles=frozenset({"core", "statistics", "grad"}), dtypes=("float32",), axes="first")

    def __init__(self, name: str, act: Callable[[Case, Outcome], Any]) -> None:
        self.name = f"hostile_subjects:{name}"
        self._act = act

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Any:
        if self._act in (_raises, _exits):
            return self._act(case, Outcome(()))
        return self._act(case, find_subject("numpy").run(case))


def changed(**fields: Any) -> Callable[[Case, Outcome], Any]:
    """Replace fields of the first rank; a callable is given the old value."""

    def act(case: Case, outcome: Outcome) -> Any:
        rank = outcome.ranks[0]
        new = {k: v(getattr(rank, k)) if callable(v) else v for k, v in fields.items()}
        return Outcome((dataclasses.replace(rank, **new),))

    return act


def _raises(case: Case, outcome: Outcome) -> Any:
    raise RuntimeError("no such kernel")


def _exits(case: Case, outcome: Outcome) -> Any:
    raise SystemExit(3)


def _writes(case: Case, outcome: Outcome) -> Any:
    case.ranks[0].x[...] = 0
    return outcome


def _aliases(case: Case, outcome: Outcome) -> Any:
    return Outcome((dataclasses.replace(outcome.ranks[0], y=case.ranks[0].x),))


def _sleeps(case: Case, outcome: Outcome) -> Any:
    time.sleep(30)
    return outcome


#: Each way with words that the failure must contain.
KINDS: dict[str, tuple[Callable[[Case, Outcome], Any], str]] = {
    "right": (lambda case, outcome: outcome, ""),
    "raises": (_raises, "raised RuntimeError: no such kernel"),
    "exits": (_exits, "raised SystemExit: 3"),
    "nothing": (lambda case, outcome: None, "run returned NoneType; expected an Outcome"),
    "a dict": (lambda case, outcome: {"y": 1}, "run returned dict"),
    "ranks": (lambda case, outcome: Outcome(outcome.ranks * 2), "the results of 2 ranks; expected 1"),
    "not a rank": (lambda case, outcome: Outcome((outcome.ranks[0].y,)), "rank 0 is ndarray"),  # type: ignore[arg-type]
    "no y": (changed(y=None), "returned no y, which its scope promises"),
    "no dx": (changed(dx=None), "returned no dx, which its scope promises"),
    "a list": (changed(y=lambda y: y.tolist()), "y is list; expected a NumPy array"),
    "objects": (changed(y=lambda y: y.astype(object)), "y has dtype object; expected real numbers"),
    "complex": (changed(y=lambda y: y.astype(complex)), "y has dtype complex128"),
    "flat": (changed(y=lambda y: y.ravel()), "y has shape"),
    "scalar": (changed(mean=lambda m: np.float32(m[0, 0])), "mean is float32; expected a NumPy array"),
    "text": (changed(var=lambda v: v.astype(str)), "var has dtype"),
    "writes": (_writes, "wrote to the array x that it was given [BN-SHAPE-3]"),
    "aliases": (_aliases, "y shares its memory with an array that was given [BN-SHAPE-3]"),
    "sleeps": (_sleeps, "did not return within 0.2 s"),
    "NaN": (changed(y=lambda y: np.full_like(y, np.nan)), "y is off"),
    "zeros": (changed(y=np.zeros_like), "y is off"),
}


def made(name: str) -> Hostile:
    """The subject of that kind."""
    return Hostile(name, KINDS[name][0])
