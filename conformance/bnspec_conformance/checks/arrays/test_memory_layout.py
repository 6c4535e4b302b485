"""Checks of BN-DET-2: where arrays lie in memory, each in a way of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bnspec_conformance.cases.case import Case, RankOutcome
from bnspec_conformance.cases.inputs.memory import ROLES, arrays_of, constant_where_repeated, kinds_of
from bnspec_conformance.cases.inputs.sizes import plain_config
from bnspec_conformance.checks.examples import example
from bnspec_conformance.checks.forward.test_determinism import whole
from bnspec_conformance.checks.placing import library_of, run_placed
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial
from bnspec_conformance.trials.violations.comparison import bitwise

_RESULTS = ("y", "mean", "var", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot", "state")


def laid_out(subject: Subject) -> st.SearchStrategy[tuple[Case, tuple[str, ...]]]:
    """Cases, and a layout for each array that a case may have."""
    kinds = kinds_of(library_of(subject))
    return st.tuples(whole(subject), st.tuples(*(st.sampled_from(kinds) for _ in ROLES)))


@clauses("BN-DET-2")
@explore(laid_out)
def test_memory_layout(t: Trial, drawn: tuple[Case, tuple[str, ...]]) -> None:
    """Strides, offsets and the order of axes in memory, of each array its own, change nothing beyond the bound."""
    case, kinds = drawn
    layouts: dict[str, str] = dict(zip(ROLES, kinds, strict=True))
    case = constant_where_repeated(t.fit(case), layouts)
    _unchanged(t, case, layouts, t.run(case).ranks[0])


@clauses("BN-DET-2")
@explore()
def test_one_array(t: Trial) -> None:
    """One array alone lies otherwise than the rest, in each of the ways that it can."""
    library = library_of(t.subject)
    given = t.subject.scope.arrange(example(plain_config(t.subject.scope, 1), [(4, 3, 2, 2)]))
    rank, axis = given.ranks[0], given.config.axis
    mask = np.random.default_rng(3).random([1 if a == axis else n for a, n in enumerate(rank.x.shape)]) < 0.7
    masked = dataclasses.replace(given, ranks=(dataclasses.replace(rank, mask=mask),))
    frozen = dataclasses.replace(given, mode="inference", dmean=None, dvar=None)
    ghost = t.subject.scope.arrange(example(plain_config(t.subject.scope, 1, 2), [(4, 3, 2, 2)]))
    for case in map(t.fit, t.inside([given, masked, frozen, ghost])):
        usual = t.run(case).ranks[0]
        for kind in kinds_of(library)[1:]:
            for role in (role for role, arrays in arrays_of(case).items() if arrays):
                layouts = {role: kind}
                own = constant_where_repeated(dataclasses.replace(case, note=f"{role} {kind}"), layouts)
                _unchanged(t, own, layouts, t.run(own).ranks[0] if kind == "repeated" else usual)


def _unchanged(t: Trial, case: Case, layouts: Mapping[str, str], usual: RankOutcome) -> None:
    """Require what the usual layout gives: the same bits, or a result within the bound."""
    outcome = run_placed(t, case, layouts)
    changed = []
    for name in _RESULTS:
        got, want = getattr(outcome.ranks[0], name), getattr(usual, name)
        if got is None or want is None or _same_bits(got, want):
            t.same(got, want, name, case)
        else:
            changed.append(name)
    if changed:
        t.agree(case, *changed, outcome=outcome, control=case)


def _same_bits(got: Any, want: Any) -> bool:
    if isinstance(got, dict):
        return got.keys() == want.keys() and all(_same_bits(got[k], want[k]) for k in got)
    alike: bool = got.shape == want.shape and got.dtype == want.dtype
    return alike and bitwise(got, want) is None
