"""Checks of SPEC.md, "Running statistics": which rule comes first where two of them speak of one update."""

from typing import Any

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks.examples import configured
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_STATE = {"mean": np.asarray([0.5, -1.0], "float32"), "var": np.asarray([2.0, 1.0], "float32")}


def made(rows: list[list[float]], **fields: Any) -> Case:
    """Return a training call of two channels with a state of 32 bits."""
    config = BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.75, "correction": 0} | fields))
    return Case(config=config, ranks=(RankInputs(np.asarray(rows, "float32")),), state=_STATE)


def chosen(t: Trial, case: Case, policy: str) -> Case | None:
    """Return the case under another policy for what is not finite, if the subject has it."""
    own = configured(case, nonfinite=policy)
    return own if t.asks(f"nonfinite={policy}", own) else None


@clauses("BN-RUN-10")
@explore()
def test_beyond_the_dtype_of_the_state(t: Trial) -> None:
    """A variance that W holds and the state does not is treated as one that is not finite."""
    rows = [[3e30, 1.0], [-3e30, 2.0]]
    usual = t.inside([made([[3.0, 1.0], [-3.0, 2.0]])])[0]
    t.agree(usual, "state", proves=())
    skip, spread, refuse = (chosen(t, made(rows), policy) for policy in ("skip", "propagate", "raise"))
    if skip is not None:
        got = t.run(skip).ranks[0].state
        assert got is not None
        for name, old in _STATE.items():
            t.same(got[name][:1], old[:1], f"state.{name} that is to be skipped", skip, control=usual)
    if spread is not None:
        got = t.run(spread).ranks[0].state
        assert got is not None
        t.require(not np.isfinite(got["var"][0]), "the variance that is too large is finite", spread)
    if refuse is not None:
        t.rejects(refuse, FloatingPointError, "BN-RUN-10")


@clauses("BN-RUN-10")
@explore()
def test_raise_whatever_the_weight(t: Trial) -> None:
    """A batch that is not finite is refused also where it would have no weight."""
    usual = t.inside([made([[3.0, 1.0], [-3.0, 2.0]])])[0]
    t.agree(usual, "state", proves=())
    for case in t.inside(made([[np.nan, 1.0], [1.0, 2.0]], decay=decay, nonfinite="raise") for decay in (1.0, 0.75)):
        t.rejects(case, FloatingPointError, "BN-RUN-10")


@clauses("BN-RUN-4")
@explore()
def test_one_value_before_what_is_not_finite(t: Trial) -> None:
    """One value per channel is refused whether it is finite or not, and whatever becomes of what is not."""
    usual = t.inside([made([[3.0, 1.0], [-3.0, 2.0]], correction=1)])[0]
    t.agree(usual, "state", proves=())
    cases = [made([[np.nan, 1.0]], correction=1, nonfinite=policy) for policy in ("skip", "propagate")]
    asked = [case for case in cases if t.can_refuse(case, f"nonfinite={case.config.nonfinite}")]
    for case in asked:
        t.rejects(case, ValueError, "BN-RUN-4")
    if not asked:
        t.rejects(cases[-1], ValueError, "BN-RUN-4")  # which says why it cannot be asked
