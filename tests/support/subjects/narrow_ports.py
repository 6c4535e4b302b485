"""Ports that compute in float32 and declare something else, for the hints, and one whose process dies."""

import os
from typing import ClassVar

import numpy as np

from bnspec_conformance import Case, Outcome, RankOutcome
from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.cases.scope import Scope

__all__ = ["Dies", "Elementwise", "Naive", "Sums", "Wrong"]


class Sums:
    """Mean and variance in float64, and y in a format of its own; as declared, in float64."""

    name = "sums"
    scope = Scope(profiles=frozenset({"core"}), dtypes=("float32",), ndims=(2,), axes="first", world=1)
    arithmetic, bound, examples = "float64", "strict", 12
    evaluation: ClassVar[Evaluation] = {}
    format: ClassVar[type[np.floating]] = np.float64

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        own, config = self.format, case.config
        x = case.ranks[0].x.astype(np.float64)
        if len(x) == 0:
            return Outcome((RankOutcome(y=case.ranks[0].x.copy()),))
        mean, istd = x.mean(0).astype(own), (1 / np.sqrt(x.var(0) + config.epsilon)).astype(own)
        y = (x.astype(own) - mean) * istd
        y = y * (own(1) if case.gamma is None or not config.scale else case.gamma.astype(own))
        y = y + (own(0) if case.beta is None or not config.center else case.beta.astype(own))
        return Outcome((RankOutcome(y=y.astype(np.float32)),))


class Elementwise(Sums):
    """y in float32, which it does not declare."""

    name = "elementwise"
    format = np.float32


class Naive(Sums):
    """Everything in float32, and the mean in one number, which it does not declare."""

    name = "naive"

    def run(self, case: Case) -> Outcome:
        x, config = case.ranks[0].x, case.config
        if len(x) == 0:
            return Outcome((RankOutcome(y=x.copy()),))
        y = (x - x.mean(0)) / np.sqrt(x.var(0) + np.float32(config.epsilon))
        y = y * (np.float32(1) if case.gamma is None or not config.scale else case.gamma.astype(np.float32))
        y = y + (np.float32(0) if case.beta is None or not config.center else case.beta.astype(np.float32))
        return Outcome((RankOutcome(y=y.astype(np.float32)),))


class Wrong(Sums):
    """A wrong formula, which no declaration mends."""

    name = "wrong"

    def run(self, case: Case) -> Outcome:
        y = super().run(case).ranks[0].y
        return Outcome((RankOutcome(y=y if y is None else y * np.float32(1.01)),))


class Dies(Sums):
    """The formula, but for cases with an epsilon of 0, in which its process dies."""

    name = "dies"
    examples = 6

    def run(self, case: Case) -> Outcome:
        if case.config.epsilon == 0:
            os.abort()
        return super().run(case)
