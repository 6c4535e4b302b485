"""Subjects that are wrong on purpose, for the tests of the suite itself."""

import dataclasses

import numpy as np

from bnspec_conformance import Case, Outcome, find_subject
from bnspec_conformance.cases.levels import level_of_case

__all__ = ["Broken", "forgetful", "hard_only", "one_pass", "right", "silent"]


class Broken:
    """NumPy's outcomes, spoilt."""

    dtypes = ("float32",)
    arithmetic = "float64"
    flushes = False
    examples = 20
    backend = None

    def __init__(self, name: str) -> None:
        self.name = f"wrong_subjects:{name}"
        self.kind = name

    def version(self) -> str:
        return self.name

    def supports(self, case: Case) -> str | None:
        return "it knows no ranks" if len(case.ranks) > 1 else None

    def run(self, case: Case) -> Outcome:
        outcome = find_subject("numpy").run(case)
        rank = outcome.ranks[0]
        if self.kind == "one_pass" and rank.var is not None and case.config.virtual_batch_size is None:
            x = np.moveaxis(case.ranks[0].x, case.config.axis, -1).reshape(-1, case.channels)
            if len(x) and case.ranks[0].mask is None:
                var = np.mean(x * x, axis=0, dtype="float32") - np.mean(x, axis=0, dtype="float32") ** 2
                rank = dataclasses.replace(rank, var=var[None].astype(rank.var.dtype))
        if self.kind == "forgetful" and rank.state is not None:
            rank = dataclasses.replace(rank, state=case.state)
        if self.kind == "hard_only" and level_of_case(case) == "AAA" and rank.y is not None:
            rank = dataclasses.replace(rank, y=rank.y + rank.y.dtype.type(1))
        if self.kind == "silent":
            rank = dataclasses.replace(rank, ydot=None)
        return Outcome((rank,))


right, one_pass, forgetful, silent = map(Broken, ("right", "one_pass", "forgetful", "silent"))
hard_only = Broken("hard_only")  # right but for inputs that are hard
