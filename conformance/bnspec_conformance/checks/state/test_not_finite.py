"""Checks of BN-RUN-10 and BN-RUN-11 where they meet a ghost source, an averaging or renorm."""

import dataclasses
import itertools
from typing import Any

from bnspec import Renorm
from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks.examples import config, configured, example, with_state
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_SOURCES = ("first", "mean", "merged", "sequential")
_FORMS: tuple[Any, ...] = ("tensorpack", "paper")
_NAN = float("nan")


def made(value: float = 0.0, at: int = 0, **fields: Any) -> Case:
    """Return three channels of four samples, of which one element of channel 0 has another value."""
    case = example(config(**fields), [(4, 3, 2)])
    x = case.ranks[0].x.copy()
    if value:
        x[at, 0, 0] = value
    return dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], x=x),))


def renorm(form: Any, decay: float = 0.5) -> Renorm:
    """Return renorm of a form."""
    return Renorm(form=form, rmax=2.0, dmax=3.0, decay=decay)


@clauses("BN-RUN-10")
@explore()
def test_groups(t: Trial) -> None:
    """Each feed is looked at on its own: group 0, the mean, the merged groups, or every group in its turn."""
    for source, averaging, at in itertools.product(_SOURCES, ("exponential", "cumulative", "pooled"), (1, 2)):
        if (source, averaging) == ("mean", "pooled"):
            continue
        given: dict[str, Any] = {"virtual_batch_size": 2, "ghost_source": source, "averaging": averaging}
        finite = made(**given)
        for policy in ("skip", "propagate", "raise"):
            case = made(_NAN, at, nonfinite=policy, **given)
            if policy != "raise" or (source == "first" and at > 1):
                if t.asks(f"nonfinite={policy} in groups", case):
                    t.agree(case, "state", control=finite)
            elif t.can_refuse(case, "nonfinite=raise in groups"):
                t.rejects(case, FloatingPointError, "BN-RUN-10")


@clauses("BN-RUN-10")
@explore()
def test_old_state_is_not_looked_at(t: Trial) -> None:
    """A finite batch is no reason to skip, or to refuse, whatever the old state is; the counter moves."""
    for averaging, policy in itertools.product(("exponential", "cumulative", "pooled"), ("skip", "raise")):
        usual = made(averaging=averaging, nonfinite=policy)
        if t.asks(f"nonfinite={policy}", usual):
            t.agree(with_state(usual, mean=_NAN), "state", control=usual)


@clauses("BN-RUN-10")
@explore()
def test_renorm(t: Trial) -> None:
    """Under renorm "skip" keeps the reference too, and the variance is looked at, not the deviation."""
    for form in _FORMS:
        usual = t.inside([made(renorm=renorm(form))])[0]
        t.agree(usual, "state", proves=())
        for value, policy in itertools.product((_NAN, 3e30), ("skip", "raise")):  # the square of 3e30 is too large
            case = made(value, renorm=renorm(form), nonfinite=policy)
            if policy == "raise":
                if t.can_refuse(case, "nonfinite=raise under renorm"):
                    t.rejects(case, FloatingPointError, "BN-RUN-10")
            elif t.asks("nonfinite=skip under renorm", case):
                got = t.run(case).ranks[0].state
                assert got is not None and case.state is not None
                for name, old in case.state.items():
                    t.same(got[name][:1], old[:1], f"state.{name} that is to be skipped", case, control=usual)


@clauses("BN-RUN-11")
@explore()
def test_first_of_a_cumulative_average(t: Trial) -> None:
    """The first update has weight 1: it takes the batch, whatever was there."""
    fresh = with_state(made(averaging="cumulative"), count=0)
    for case in t.inside([fresh]):
        usual, instead = (t.run(own).ranks[0].state for own in (case, with_state(case, mean=_NAN, var=_NAN)))
        t.same(instead, usual, "the state of a first update", case)


@clauses("BN-RUN-11")
@explore()
def test_weights_of_renorm(t: Trial) -> None:
    """Decay 0 and 1 take one side of mean and deviations to the bit, and renorm's own decay of the reference."""
    arrays = ("mean", "stddev", "renorm_mean", "renorm_stddev")
    for taking in t.inside(made(renorm=renorm(form, 0.0), decay=0.0) for form in _FORMS):
        assert taking.config.renorm is not None
        form = taking.config.renorm.form
        spoilt = with_state(taking, **dict.fromkeys(arrays, _NAN))
        usual, instead = (t.run(own).ranks[0].state for own in (taking, spoilt))
        t.same(instead, usual, "the state with decay 0", taking)
        keeping = made(_NAN, renorm=renorm(form, 1.0), decay=1.0)
        kept = t.run(keeping).ranks[0].state
        assert kept is not None and keeping.state is not None
        half = configured(taking, decay=0.5)
        for name in (name for name in arrays if name in keeping.state):
            t.same(kept[name], keeping.state[name], f"state.{name} with decay 1", keeping, control=half)
