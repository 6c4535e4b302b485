"""Checks of BN-RUN-4 where single_value meets a ghost source, an averaging or renorm: every cell of the table."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks.examples import config, configured, example, with_state
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

#: Of four samples in two groups, those that count: one in the first group, and one in the second.
_ONE_VALUE = ((1, 0, 1, 1), (1, 1, 1, 0))
_SOURCES = ("first", "mean", "merged", "sequential")


#: Correction 1, unless told otherwise.
corrected = functools.partial(config, correction=1)


def grouped(counted: tuple[int, ...], seen: int = 0, **fields: Any) -> Case:
    """Return two groups of two samples with one element each, of which some count; `seen` replaces the counter."""
    mask = np.asarray(counted, bool).reshape(4, 1, 1)
    case = example(corrected(virtual_batch_size=2, **fields), [(4, 3, 1)], [mask])
    return with_state(case, count=seen)


def refused(case: Case, counts: tuple[int, ...]) -> bool:
    """Return whether "raise" refuses groups of these counts: the spec's sentence, and not the oracle's."""
    fed = {"first": counts[:1], "merged": (sum(counts),)}.get(case.config.ghost_source, counts)
    if case.config.averaging != "pooled":
        return min(fed) < 2
    assert case.state is not None
    before = int(case.state["count"][0])
    return any(before + total < 2 for total in itertools.accumulate(fed))


def cells(policy: str) -> Iterator[tuple[Case, bool]]:
    """Yield every source with every averaging that goes with a policy, and whether "raise" refuses it."""
    for source, counted in itertools.product(_SOURCES, _ONE_VALUE):
        averagings = ("exponential", "pooled") if policy == "keep" else ("exponential", "cumulative", "pooled")
        for averaging in averagings if source != "mean" else averagings[:-1]:
            for seen in (0, 3) if averaging == "pooled" else (2,):
                case = grouped(counted, seen, averaging=averaging, ghost_source=source, single_value=policy)
                yield case, refused(case, (sum(counted[:2]), sum(counted[2:])))


@clauses("BN-RUN-4")
@explore()
def test_kept_or_divided_by_one(t: Trial) -> None:
    """A variance of one value is kept or divided by 1 as the groups that feed say, or as a pooled total does."""
    for case, _ in (cell for policy in ("keep", "floor") for cell in cells(policy)):
        if t.asks(f"single_value={case.config.single_value}", case):
            plain = configured(case, correction=0)
            t.agree(case, "state", control=plain)


@clauses("BN-RUN-4")
@explore()
def test_refused(t: Trial) -> None:
    """Group 0, the sum, every group or the total so far is looked at, and refused; what is not looked at goes."""
    for case, no in cells("raise"):
        if no and t.can_refuse(case):
            t.rejects(case, ValueError, "BN-RUN-4")
        elif not no and t.asks("a group of one value that is not looked at", case):
            plain = configured(case, correction=0)
            t.agree(case, "state", control=plain)


@clauses("BN-RUN-4")
@explore()
def test_one_value_pooled(t: Trial) -> None:
    """One value alone in a pooled state: "keep" keeps var, and mean and count move; later values are no longer one."""
    cases = []
    for policy, seen in itertools.product(("keep", "floor"), (0, 1, 2)):
        case = example(corrected(averaging="pooled", single_value=policy), [(1, 3, 1)])
        cases.append(with_state(case, count=seen))
    several = example(corrected(averaging="pooled"), [(4, 3, 1)])
    for case in t.inside(cases):
        t.agree(case, "state", control=several)


@clauses("BN-RUN-4")
@explore()
def test_renorm(t: Trial) -> None:
    """Under renorm "keep" keeps var and every deviation, which do not follow from each other then; the means move."""
    cases = []
    for form in ("tensorpack", "paper"):
        renorm = Renorm(form=form, rmax=2.0, dmax=3.0, decay=0.5)
        for policy in ("keep", "floor"):
            cases.append(example(corrected(renorm=renorm, single_value=policy), [(1, 3, 1)]))
            cases += [grouped(m, renorm=renorm, single_value=policy, ghost_source="mean") for m in _ONE_VALUE]
    for case in t.inside(cases):
        plain = configured(case, correction=0)
        t.agree(case, "state", control=plain)
    for case in (c for c in t.inside(cases) if c.config.single_value == "keep"):
        got = t.run(case).ranks[0].state
        assert got is not None and case.state is not None
        for name in (name for name in case.state if name in ("var", "stddev", "renorm_stddev")):
            t.same(got[name], case.state[name], f"state.{name} that is to be kept", case)


@clauses("BN-RUN-4", "BN-RUN-6", "BN-RUN-7")
@explore()
def test_refused_together(t: Trial) -> None:
    """Options whose result would belong to nothing are refused together; each of them alone is taken."""
    t.needs_backend()
    rows: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("BN-RUN-4", {"averaging": "cumulative", "single_value": "keep"}, {"correction": 0}),
        ("BN-RUN-4", {"averaging": "debiased", "single_value": "keep"}, {"single_value": "floor"}),
        (
            "BN-RUN-6",
            {"averaging": "pooled", "ghost_source": "mean", "virtual_batch_size": 2},
            {"ghost_source": "merged"},
        ),
        ("BN-RUN-7", {"averaging": "debiased", "decay": 1.0}, {"decay": 0.5}),
    )
    for clause, bad, good in rows:
        t.refuses(lambda fields=bad: corrected(**fields), ValueError, clause)  # type: ignore[misc]
        made = corrected(**(bad | good))
        t.require(made.averaging == bad["averaging"], "the options are not what was given", proves=(clause,))
