"""The model a random sequence of calls is compared with: variables to begin with, and the updates since."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case

__all__ = ["NAMES", "Model"]

NAMES = ("beta", "gamma", "mean/EMA", "variance/EMA")


@dataclass
class Model:
    """Model of a layer: its parameters, the state it began with, and the batches fed to it since."""

    start: dict[str, Array] | None = None  # None before the first call
    updates: list[tuple[Array, Array]] = field(default_factory=list)
    depth: int = 0  # updates that went into `start`
    calls: int = 0  # since the last backward
    due: bool = False  # whether one of them is a step of training
    repeated: bool = False  # whether the last of them repeated a pass
    unanswered: Case | None = None  # the call that backward would serve, if it can be known

    def asked(self, case: Case, *, due: bool, repeated: bool) -> None:
        """Count a call: inference before a step of training is over, and a repeated pass is repeated for backward."""
        alone = self.calls == 0 or (due and not self.due) or (repeated and not self.repeated)
        self.calls, self.unanswered = (1, case) if alone else (self.calls + 1, None)
        self.due, self.repeated = due or (self.due and not alone), repeated

    def answered(self) -> Case | None:
        """Take the call that a backward serves; None if there is none or there are several."""
        case = self.unanswered
        if case is not None:
            self.calls, self.due, self.repeated, self.unanswered = 0, False, False, None
        return case

    def called(self) -> None:
        """Variables exist from the first call on."""
        if self.start is None:
            self.set((np.zeros(2), np.ones(2), np.zeros(2), np.ones(2)))

    def set(self, values: Any, depth: int = 0) -> None:
        """Begin anew from these variables."""
        self.start, self.updates, self.depth = dict(zip(NAMES, values)), [], depth

    def steps(self) -> int:
        """Updates that went into the variables as they are."""
        return self.depth + len(self.updates)

    def variables(self) -> dict[str, Array]:
        """Replay the updates, each by half the difference."""
        if self.start is None:
            return {}
        found = dict(self.start)
        for mean, var in self.updates:
            found["mean/EMA"] = found["mean/EMA"] + (mean - found["mean/EMA"]) / 2
            found["variance/EMA"] = found["variance/EMA"] + (var - found["variance/EMA"]) / 2
        return {name: np.asarray(v, dtype="float32") for name, v in found.items()}
