"""Mutants that take what is to be refused: the check that ports are put to finds one of every clause, as a port too."""

import dataclasses
from typing import Any

import pytest

from bnspec_backends import cpu
from bnspec_conformance import Case, Outcome, find_subject
from bnspec_conformance.cases.limits import REFUSED
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.mutants import catalogue
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import complete
from bnspec_conformance.trials.budget import Budget

CHECKS = {check.clauses[0]: check for name, check in all_checks().items() if name.startswith("test_refusals::")}

#: By clause, a mutant that answers a case which the clause has refused, or that a refusal has spoilt.
TAKES = {
    "BN-SHAPE-1": "rank-1",
    "BN-SHAPE-2": "axis-modulo-the-rank",
    "BN-SHAPE-5": "integers-converted",
    "BN-SHAPE-6": "broadcast-parameters",
    "BN-GRP-3": "groups-ignored-on-axis-0",
    "BN-RUN-14": "variance-below-zero",
    "BN-MASK-7": "refused-mask-lingers",
    "BN-SYNC-9": "surplus-groups-dropped",
    "BN-PREC-1": "narrow-state-taken",
}


@dataclasses.dataclass
class AsPort:
    """bnspec on NumPy as a port that says it refuses, whatever is wrong with bnspec by then."""

    scope: Scope
    name: str = "port"
    examples: int = 2
    backend: None = None

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason."""
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the case on NumPy."""
        return find_subject("numpy").run(case)


def test_every_clause_is_here() -> None:
    assert set(TAKES) == set(REFUSED)
    assert all(catalogue()[name].clause == clause for clause, name in TAKES.items())


@pytest.mark.parametrize("clause", REFUSED)
@pytest.mark.parametrize("as_port", [False, True], ids=["numpy", "port"])
def test_what_takes_a_bad_case_is_found_and_bnspec_is_not(clause: str, as_port: bool) -> None:
    scope = Scope(dtypes=("float32", "float16"), refuses=(clause,))
    subject: Any = complete(AsPort(scope), "port") if as_port else find_subject("numpy")
    budget = Budget(2, 0, shrink=False)
    with cpu.using("specification"):
        assert attempt(CHECKS[clause], subject, budget).outcome == "passed"
        with catalogue()[TAKES[clause]].apply():
            found = attempt(CHECKS[clause], subject, budget)
    assert (found.outcome, found.broken) == ("failed", (clause,)), found.reason
