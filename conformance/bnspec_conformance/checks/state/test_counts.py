"""Checks of counts in an update: what divides a fed variance, what is counted, and where counting ends."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.checks.examples import config, configured, example
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_COUNTING = ("cumulative", "debiased", "pooled")
_FORMS: tuple[Any, ...] = ("tensorpack", "paper")


def counted(*rows: Any) -> Array:
    """Return a mask for x of shape (4, 3, 1): the samples that count, for all channels or for each."""
    return np.asarray(rows, bool).T.reshape(4, len(rows), 1)


#: Three of four samples; groups of two with one, two and no sample; and for each channel other samples.
_SOME, _NONE_FIRST, _EACH = counted((1, 1, 0, 1)), counted((0, 0, 1, 1)), counted((1, 1, 1, 1), (1, 1, 0, 0), (0,) * 4)


@clauses("BN-RUN-3")
@explore()
def test_corrected_by_what_feeds(t: Trial) -> None:
    """The divisor is the count of what feeds: unmasked elements, of the group or of merged groups, over all ranks."""
    one, two = [(4, 3, 1)], [(4, 3, 1), (2, 3, 1)]
    given: tuple[tuple[dict[str, Any], Any, Any], ...] = (
        ({}, one, [_SOME]),
        *(({"virtual_batch_size": 2, "ghost_source": s}, one, [None]) for s in ("first", "mean", "merged")),
        ({"virtual_batch_size": 2, "ghost_source": "merged"}, one, [_SOME]),
        ({}, two, [None, None]),
        ({}, two, [_SOME, None]),
        ({"sync_weighting": "rank"}, two, [None, None]),
    )
    cases = [example(config(correction=1, **fields), shapes, masks) for fields, shapes, masks in given]
    for case in t.inside(cases):
        plain = configured(case, correction=0)
        t.agree(case, "state", control=plain)


@clauses("BN-RUN-8")
@explore()
def test_what_is_counted(t: Trial) -> None:
    """An update counts once, in order once per group with elements, and pooled elements are those that feed."""
    cases = []
    for source, averaging in itertools.product(("first", "mean", "merged", "sequential"), _COUNTING):
        if (source, averaging) != ("mean", "pooled"):
            own = config(virtual_batch_size=2, ghost_source=source, averaging=averaging)
            cases += [example(own, [(4, 3, 1)], [mask]) for mask in (None, _SOME, _NONE_FIRST, _EACH)]
    for case in t.inside(dataclasses.replace(case, dmean=None, dvar=None) for case in cases):
        whole = configured(case, virtual_batch_size=None)
        t.agree(case, "state", control=whole)


@clauses("BN-RUN-9")
@explore()
def test_empty_channel(t: Trial) -> None:
    """A channel without elements, beside others that have some, keeps every array of its state to the bit."""
    cases = [example(config(averaging=kind), [(4, 3, 1)], [_EACH]) for kind in ("exponential", *_COUNTING)]
    cases += [example(config(renorm=Renorm(form=form, rmax=2.0, dmax=3.0)), [(4, 3, 1)], [_EACH]) for form in _FORMS]
    for case in t.inside(cases):
        full = dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], mask=_SOME),))
        _kept(t, case, slice(2, None), full)


@clauses("BN-RUN-9")
@explore()
def test_renorm_of_nothing(t: Trial) -> None:
    """Renorm's deviations and reference are kept too where a batch is empty, or masked throughout."""
    cases, nothing = [], np.zeros((4, 1, 1), bool)
    for form, policy in itertools.product(_FORMS, ("raise", "floor")):
        own = config(renorm=Renorm(form=form, rmax=2.0, dmax=3.0), correction=1, single_value=policy)
        cases += [example(own, [(0, 3, 1)]), example(own, [(4, 3, 1)], [nothing])]
    for case in t.inside(cases):
        _kept(t, case, slice(None), example(case.config, [(4, 3, 1)]))


def _kept(t: Trial, case: Case, channels: slice, control: Case) -> None:
    """Require the state of before in some channels; the subject's integers may be of another width."""
    __tracebackhide__ = True
    got = t.run(case).ranks[0].state
    assert got is not None and case.state is not None
    for name, old in case.state.items():
        before = old[channels].astype(got[name].dtype)
        t.same(got[name][channels], before, f"state.{name} after no element", case, control=control)


@clauses("BN-RUN-6")
@explore()
def test_pooled_after_one(t: Trial) -> None:
    """A state of one element, corrected by 1, has no variance that could be undone: whatever it holds adds nothing."""
    usual = example(config(averaging="pooled", correction=1), [(4, 3, 1)])
    assert usual.state is not None
    one = usual.state | {"count": np.ones(3, np.int64)}
    for case in t.inside([dataclasses.replace(usual, state=one)]):
        t.agree(case, "state", control=usual)
        clean = t.run(case).ranks[0].state
        spoilt = dataclasses.replace(case, state=one | {"var": np.asarray([np.nan, np.inf, 7.0], np.float32)})
        t.same(t.run(spoilt).ranks[0].state, clean, "the state after one element and four more", spoilt)


@clauses("BN-RUN-5", "BN-RUN-7")
@explore()
def test_counters_of_channels(t: Trial) -> None:
    """Channels that have seen different numbers of batches: each has the weight and the divisor of its own number."""
    count = np.asarray([0, 1, 7], np.int64)
    for kind, decay, clause in (
        ("cumulative", 0.75, "BN-RUN-5"),
        ("debiased", 0.75, "BN-RUN-7"),
        ("debiased", 0.0, "BN-RUN-7"),
    ):
        usual = example(config(averaging=kind, decay=decay), [(4, 3, 1)])
        assert usual.state is not None
        own = dataclasses.replace(usual, state=usual.state | {"count": count}, dmean=None, dvar=None)
        if t.asks(f"counters of {kind} averages", own, clause):
            t.agree(own, "state", proves=(clause,), control=usual)
        used = dataclasses.replace(own, mode="inference")
        if kind == "debiased" and t.asks("the use of debiased averages", used, clause):
            t.agree(used, "y", proves=(clause,), control=dataclasses.replace(used, state=usual.state))


@clauses("BN-RUN-13")
@explore()
def test_counter_saturates(t: Trial) -> None:
    """A counter at the largest value of its dtype stays there, and the weights are those of that count."""
    every = itertools.product(_COUNTING, (0, 1))
    cases = [example(config(averaging=kind, correction=correction), [(4, 3, 1)]) for kind, correction in every]
    for case in t.inside(cases):
        kind = case.config.averaging
        state = t.run(case).ranks[0].state
        assert state is not None and case.state is not None
        dtype = state["count"].dtype  # the subject's own, which may be narrower than what it was given
        top, step = np.iinfo(dtype).max, 4 if kind == "pooled" else 1
        for short in (0, 1, 2):
            full = np.full(case.channels, top - short, dtype)
            own = dataclasses.replace(case, state=case.state | {"count": full}, note=f"{short} below the top")
            got = t.agree(own, "state", proves=("BN-RUN-13",)).ranks[0].state
            assert got is not None
            want = top - short + min(short, step)
            right = bool((got["count"] == want).all())
            t.require(right, f"{kind}: the counter went from {top - short} to {got['count'].tolist()}; expected {want}")
