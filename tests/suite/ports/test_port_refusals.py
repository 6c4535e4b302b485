"""Refusals are asked of ports: a bad case wants an error, in this process and over a pipe, and leaves no trace."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnspec_conformance import Case, Outcome, RankOutcome, find_subject
from bnspec_conformance.cases.codecs.codec import case_from_json, case_to_json
from bnspec_conformance.cases.inputs.bad import bad_cases, good_case, refused_by
from bnspec_conformance.cases.limits import REFUSED
from bnspec_conformance.cases.scope import PROFILES, Scope
from bnspec_conformance.report import by_clause
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import NotSupported, complete
from bnspec_conformance.subjects.pipe.program import Program
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record

BUDGET = Budget(2, 0, shrink=False)
EVERY = Scope(dtypes=("float32", "float16"), world=2, refuses=True)
CHECKS = {check.clauses[0]: check for name, check in all_checks().items() if name.startswith("test_refusals::")}


def made_up(case: Case) -> Outcome:
    """Numbers of x's shape for whatever comes."""
    return Outcome(tuple(RankOutcome(y=np.zeros(r.x.shape, "float32")) for r in case.ranks))


@dataclasses.dataclass
class Port:
    """bnspec's numbers and refusals; what it does with a case that is to be refused is `act`."""

    act: Callable[[Case], Any]
    scope: Scope = EVERY
    name: str = "port"
    examples: int = 2
    backend: None = None
    spoilt: bool = False

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason, which every bad case has."""
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run what is good."""
        if refused_by(case) is not None:
            return self.act(case)  # type: ignore[no-any-return]
        outcome = find_subject("numpy-specification").run(case)
        if self.spoilt:
            outcome = Outcome(tuple(dataclasses.replace(r, y=r.y + 1) for r in outcome.ranks if r.y is not None))
        return outcome


def properly(case: Case) -> Outcome:
    return find_subject("numpy-specification").run(case)


def tried(clause: str, port: Any, name: str = "port") -> Record:
    return attempt(CHECKS[clause], complete(port, name), BUDGET)


def test_every_clause_that_can_be_declared_has_a_check_and_the_other_way_round() -> None:
    assert set(CHECKS) == set(REFUSED)
    for clause in REFUSED:
        assert bad_cases(EVERY, clause), clause


@pytest.mark.parametrize("clause", REFUSED)
def test_a_bad_case_is_bad_for_that_clause_and_travels_over_a_pipe(clause: str) -> None:
    for axes in ("any", "first", "last"):
        scope = dataclasses.replace(EVERY, axes=axes, ndims=(4,))
        assert refused_by(good_case(scope)) is None
        assert scope.reason(good_case(scope)) is None
        for what, case in bad_cases(scope, clause):
            assert refused_by(case) == clause, what
            assert refused_by(case_from_json(case_to_json(case))) == clause, what


@pytest.mark.parametrize("clause", REFUSED)
def test_a_port_that_refuses_passes_and_one_that_answers_with_numbers_fails(clause: str) -> None:
    assert tried(clause, Port(properly)).outcome == "passed"
    wrong = tried(clause, Port(made_up))
    assert (wrong.outcome, wrong.broken) == ("failed", (clause,))
    assert f"answered as if nothing were wrong with {bad_cases(EVERY, clause)[0][0]}" in wrong.reason


def test_a_port_that_does_not_say_it_refuses_is_not_asked_and_passes_in_part() -> None:
    plain = dataclasses.replace(EVERY, refuses=False)
    silent, other = (
        dataclasses.replace(EVERY, refuses=refuses) for refuses in (("BN-SHAPE-6",), ("BN-MASK-7", "BN-SHAPE-1"))
    )
    assert tried("BN-SHAPE-6", Port(made_up, silent)).outcome == "failed"
    for scope in (plain, other):
        found = tried("BN-SHAPE-6", Port(made_up, scope))
        assert (found.outcome, found.foreign) == ("not supported", False)
        assert found.reason == "it does not say that it refuses what BN-SHAPE-6 has refused"
    records = [
        attempt(all_checks()[name], complete(Port(made_up, plain), "port"), BUDGET)
        for name in ("test_refusals::test_dtypes", "test_shapes::test_dtypes")
    ]
    entry = by_clause(records)["BN-SHAPE-5"]["subjects"]["port"]
    assert (entry["verdict"], entry["reasons"]) == (
        "passed in part",
        ["it does not say that it refuses what BN-SHAPE-5 has refused"],
    )


def test_what_cannot_be_wrong_in_a_scope_is_not_asked() -> None:
    narrow = dataclasses.replace(EVERY, profiles=frozenset({"core"}), dtypes=("float32",), axes="last", world=1)
    for clause in ("BN-SHAPE-2", "BN-PREC-1", "BN-RUN-14"):
        assert bad_cases(narrow, clause) == []
        if narrow.lacks(clause) is None:
            found = tried(clause, Port(made_up, narrow))
            assert (found.outcome, found.foreign) == ("not supported", True)
    assert bad_cases(dataclasses.replace(EVERY, profiles=frozenset(PROFILES) - {"ghost"}), "BN-GRP-3") == []


def _crashes(case: Case) -> Outcome:
    raise NotImplementedError("no such kernel")


def _exits(case: Case) -> Outcome:
    raise SystemExit(1)


def _writes(case: Case) -> Outcome:
    case.ranks[0].x[...] = 0
    raise ValueError("no")


def _declines(case: Case) -> Outcome:
    raise NotSupported("beyond it")


@pytest.mark.parametrize(
    ("act", "outcome", "words"),
    [
        (_crashes, "failed", "raised NotImplementedError: no such kernel, for a mask with another channel extent"),
        (_exits, "failed", "raised SystemExit: 1, for a mask"),
        (_writes, "failed", "wrote to the array x when it refused a mask"),
        (_declines, "not supported", "beyond it"),
        (lambda case: 1 / 0, "passed", ""),  # any error of a port's own will do
    ],
)
def test_what_is_no_refusal(act: Callable[[Case], Any], outcome: str, words: str) -> None:
    found = tried("BN-MASK-7", Port(act))
    assert found.outcome == outcome
    assert words in found.reason


def test_some_cases_that_cannot_be_given_are_a_part_left_out() -> None:
    def act(case: Case) -> Outcome:
        if case.ranks[0].mask is not None and case.ranks[0].mask.dtype == np.int32:
            raise NotSupported("it has no int32")
        return properly(case)

    found = tried("BN-MASK-7", Port(act))
    assert (found.outcome, found.left_out) == ("passed", {"BN-MASK-7": ["it has no int32"]})


def test_a_refusal_that_spoils_the_next_call_is_found() -> None:
    port = Port(properly)

    def act(case: Case) -> Outcome:
        port.spoilt = True
        return properly(case)

    port.act = act
    found = tried("BN-SHAPE-6", port)
    assert (found.outcome, found.broken) == ("failed", ("BN-SHAPE-6",))
    assert "y is off" in found.reason


# Over a pipe --------------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
from bnspec_conformance import Refused, find_subject
from bnspec_conformance.cases.codecs.codec import case_from_json, outcome_to_json
from bnspec_conformance.cases.inputs.bad import refused_by

right = find_subject("numpy-specification")
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "hello":
        answer = {"protocol": 1, "name": "piped", "profiles": ["core", "running"], "refuses": True}
    else:
        case = case_from_json(request["case"])
        if refused_by(case) is None:
            answer = {"outcome": outcome_to_json(right.run(case))}
        elif sys.argv[1] == "numbers":
            answer = {"outcome": {"ranks": [{"y": request["case"]["ranks"][0]["x"]}]}}
        elif sys.argv[1] == "crash":
            sys.exit(3)
        else:
            answer = {sys.argv[1]: "no such shape"}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "outcome", "words"),
    [
        ("error", "passed", ""),
        ("refused", "passed", ""),
        ("unsupported", "not supported", "no such shape"),
        ("numbers", "failed", "answered as if nothing were wrong with gamma of shape (1,)"),
        ("crash", "failed", "raised ProgramError: the program ended with exit status 3"),
    ],
)
def test_an_error_over_a_pipe_is_a_refusal_and_a_crash_is_none(
    tmp_path: Path, kind: str, outcome: str, words: str
) -> None:
    path = tmp_path / "piped.py"
    path.write_text(PROGRAM)
    program = Program(f"exec:{sys.executable} {path} {kind}")
    try:
        found = tried("BN-SHAPE-6", program, program.name)
        again = tried("BN-SHAPE-6", program, program.name)  # a fault that is remembered is the same one
    finally:
        program.close()
    assert found.outcome == again.outcome == outcome, found.reason
    assert words in found.reason


def test_a_port_in_a_process_of_its_own_is_asked_too() -> None:
    from bnspec_conformance.subjects.pipe.host import answer

    for act, said in ((properly, "refused"), (made_up, "outcome"), (_crashes, "error")):
        bad = bad_cases(EVERY, "BN-SHAPE-6")[0][1]
        assert list(answer(complete(Port(act), "port"), case_to_json(bad))) == [said]
