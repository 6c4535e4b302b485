"""Mutants of the order in which the rules of an update are asked."""

from typing import Any

import numpy as np

from bnspec import Moments, RunningState
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.updates import configured

__all__ = ["MUTANTS"]


def _in_float64(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> RunningState:
    wide = RunningState(*(v if v is None or v.dtype.kind == "i" else v.astype("float64") for v in state))
    new = original(wide, stats, config, **named)
    with np.errstate(all="ignore"):
        return RunningState(
            *(None if v is None or old is None else v.astype(old.dtype) for v, old in zip(new, state, strict=True))
        )


def _finite_first(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> RunningState:
    bad = not (np.isfinite(stats.mean).all() and np.isfinite(stats.m2).all())
    allows = config.nonfinite != "raise" and config.averaging in ("exponential", "pooled")
    change = configured(lambda config: bad and allows and config.single_value == "raise", single_value="keep")
    return change(original, state, stats, config, **named)  # type: ignore[no-any-return]


MUTANTS = (
    Mutant(
        name="state-wide-while-looked-at",
        clause="BN-RUN-10",
        row="D17",
        breaks="Looks for what is not finite before the cast to the state's dtype, which then overflows.",
        apply=override(update=_in_float64),
    ),
    Mutant(
        name="nonfinite-raise-by-weight",
        clause="BN-RUN-10",
        row="D17",
        breaks="Refuses a batch that is not finite only where its weight is not 0.",
        apply=override(update=configured(lambda c: c.decay == 1 and c.nonfinite == "raise", nonfinite="propagate")),
    ),
    Mutant(
        name="nonfinite-before-one-value",
        clause="BN-RUN-4",
        row="D3",
        breaks="Passes over one value per channel that is not finite, instead of refusing it.",
        apply=override(update=_finite_first),
    ),
)
