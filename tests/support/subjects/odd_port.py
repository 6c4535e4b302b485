"""A small port with oddities of packages in it: it warns and prints on import, and calls itself something else."""

import os
import sys
import warnings

import numpy as np

from bnspec_conformance import Case, Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope

__all__ = ["Port", "Right", "leaves", "wrong"]

warnings.warn("no compiler was found", stacklevel=1)
print("loaded")

if os.environ.get("ODD_PORT") == "exit":
    sys.exit(3)


class Port:
    """y is x and 7 more, which is wrong. It takes no further attributes."""

    __slots__ = ()
    name = 'somebody\'s "port"'
    arithmetic, bound, flushes, examples, dialect, backend = "float32", "plain", False, 3, None, None

    @property
    def scope(self) -> Scope:
        warnings.warn("scope", stacklevel=1)
        return Scope(profiles=frozenset({"core"}), dtypes=("float32",), ndims=(2,), axes="first", world=1)

    def __init__(self) -> None:
        warnings.warn("made", stacklevel=1)

    def version(self) -> str:
        warnings.warn("version", stacklevel=1)
        return "odd 1.0"

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        print("run")
        return Outcome((RankOutcome(y=case.ranks[0].x + np.float32(7)),))


class Right(Port):
    """The formula."""

    __slots__ = ()

    def run(self, case: Case) -> Outcome:
        x, config = case.ranks[0].x.astype(float), case.config
        if len(x) == 0:
            return Outcome((RankOutcome(y=case.ranks[0].x.copy()),))
        y = (x - x.mean(0)) / np.sqrt(x.var(0) + config.epsilon)
        y = y * (1 if case.gamma is None or not config.scale else case.gamma.astype(float))
        y = y + (0 if case.beta is None or not config.center else case.beta.astype(float))
        return Outcome((RankOutcome(y=y.astype(np.float32)),))


def wrong() -> Port:
    """A maker that warns and prints."""
    warnings.warn("made", stacklevel=1)
    print("made")
    return Port()


def leaves() -> Port:
    """A maker that ends the interpreter."""
    sys.exit(4)
