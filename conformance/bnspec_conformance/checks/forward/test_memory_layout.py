"""Checks of BN-DET-2: where arrays lie in memory, each in a way of its own."""

import dataclasses

from hypothesis import strategies as st

from bnspec_conformance.cases.case import Case
from bnspec_conformance.cases.memory import ROLES, arrays_of, constant_where_repeated, kinds_of
from bnspec_conformance.cases.sizes import plain_config
from bnspec_conformance.checks.examples import example
from bnspec_conformance.checks.forward.test_determinism import whole
from bnspec_conformance.checks.placing import library_of, run_placed
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

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
    layouts = dict(zip(ROLES, kinds, strict=True))
    case = constant_where_repeated(case, layouts)
    t.agree(case, *_RESULTS, outcome=run_placed(t, case, layouts), control=case)


@clauses("BN-DET-2")
@explore()
def test_one_array(t: Trial) -> None:
    """One array alone lies otherwise than the rest, in each of the ways that it can."""
    library = library_of(t.subject)
    given = t.subject.scope.arrange(example(plain_config(t.subject.scope, 1), [(4, 3, 2, 2)]))
    batch, frozen = dataclasses.replace(given, note="a batch"), dataclasses.replace(given, mode="inference")
    frozen = dataclasses.replace(frozen, dmean=None, dvar=None)
    for case in t.inside([batch, frozen]):
        case = t.fit(case)
        usual = exact(case)
        for kind in kinds_of(library)[1:]:
            for role in (role for role, arrays in arrays_of(case).items() if arrays):
                layouts = {role: kind}
                own = constant_where_repeated(dataclasses.replace(case, note=f"{role} {kind}"), layouts)
                reference = exact(own) if kind == "repeated" else usual
                t.agree(own, *_RESULTS, outcome=run_placed(t, own, layouts), control=own, reference=reference)
