"""A violation that was seen fails its clauses, whatever happens afterwards; and it fails no other clause."""

import dataclasses
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from bnspec._clauses import clauses as specification
from bnspec_conformance import Case, Outcome, RankOutcome, find_subject
from bnspec_conformance.cases.outputs import OUTPUTS, SPEAKS, clauses_of, formulas
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.report import by_clause, document, write_junit
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.record import Record, outcome_of, reason_of
from bnspec_conformance.trials.trial import NeverSupported, Trial
from bnspec_conformance.trials.violations.violation import Violation

PROFILES = frozenset({"core", "statistics", "running", "inference", "grad", "jvp", "cotangents"})


class Port:
    """bnspec's own numbers, changed; a subject of which the suite knows nothing else."""

    arithmetic, bound, flushes, dialect, backend = "float64", "strict", False, None, None
    evaluation: ClassVar[dict[str, str]] = {}
    examples = 8

    def __init__(
        self,
        change: Callable[[RankOutcome], RankOutcome] = lambda rank: rank,
        declines: Callable[[Case], bool] = lambda case: False,
    ) -> None:
        self.name = "port"
        options = {"averaging": ("exponential",)}
        self.scope = Scope(profiles=PROFILES, dtypes=("float32",), world=1, options=options)
        self.right = find_subject("numpy-specification")
        self.change, self.declines = change, declines

    def version(self) -> str:
        """No library's."""
        return "1"

    def supports(self, case: Case) -> str | None:
        """What is declined, then what is out of scope."""
        return "it declines this case" if self.declines(case) else self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """The right numbers, changed."""
        return Outcome(tuple(self.change(rank) for rank in self.right.run(case).ranks))


def off(output: str) -> Callable[[RankOutcome], RankOutcome]:
    """One output 1 % off, a count by one."""
    name, _, key = output.partition(".")

    def wrong(values: Any) -> Any:
        return values + 1 if values.dtype.kind == "i" else values * values.dtype.type(1.01)

    def change(rank: RankOutcome) -> RankOutcome:
        held = getattr(rank, name)
        if held is None or (key and key not in held):
            return rank
        return dataclasses.replace(rank, **{name: {**held, key: wrong(held[key])} if key else wrong(held)})

    return change


def failed(port: Any, *names: str, seed: int = 0, shrink: bool = False) -> dict[str, Any]:
    """The clauses of all checks, or of those whose name has one of the words, by their verdict."""
    chosen = [c for c in all_checks().values() if not names or any(name in c.name for name in names)]
    records = [attempt(check, port, Budget(seed=seed, shrink=shrink)) for check in chosen]
    assert not any("the check broke" in record.reason for record in records)
    return {clause: row for clause, row in by_clause(records).items() if row["verdict"] == "failed"}


# The map ------------------------------------------------------------------------------------------------------


def test_the_map_knows_every_clause_and_only_outputs() -> None:
    assert sorted(SPEAKS) == sorted(specification())
    words = {word.split(".")[0] for text in SPEAKS.values() for word in text.split()}
    assert words <= {*OUTPUTS}


def test_what_an_output_proves_speaks_of_it() -> None:
    from bnspec_conformance.checks.examples import example as made
    from bnspec_conformance.checks.forward.test_inference import inference_example
    from bnspec_conformance.checks.forward.test_masks import masked_example
    from bnspec_conformance.checks.ranks.test_sync import world
    from bnspec_conformance.checks.state.test_renorm import config

    cases = [inference_example(), masked_example(np.ones((4, 1), bool), virtual_batch_size=2), world(4, 2)]
    for case in [*cases, *(made(config(form)) for form in ("tensorpack", "paper"))]:
        names = ("y", "dx", "dgamma", "dbeta", "ydot") if case.mode == "inference" else OUTPUTS
        for output in names:
            for clause in {*clauses_of(case, output, {}, case.mode), *formulas(case, output)}:
                said = {word.split(".")[0] for word in SPEAKS[clause].split()}
                assert output in said, f"{clause} is proved by {output} and does not speak of it"


# Whose fault --------------------------------------------------------------------------------------------------

GUILTY = {
    "y": "BN-NORM-1 BN-NORM-3 BN-NORM-5 BN-INF-1",
    "count": "BN-MOM-1 BN-GRP-1",
    "mean": "BN-MOM-2 BN-MOM-5 BN-MOM-6 BN-MOM-8",
    "var": "BN-MOM-3 BN-MOM-6 BN-MOM-8",
    "dx": "BN-GRAD-1 BN-GRAD-5 BN-GRAD-8 BN-GRAD-9 BN-INF-3",
    "dgamma": "BN-GRAD-2 BN-GRAD-5 BN-INF-3",
    "dbeta": "BN-GRAD-3 BN-GRAD-5 BN-INF-3",
    "ydot": "BN-GRAD-4 BN-GRAD-5 BN-INF-3",
    "mean_dot": "BN-GRAD-4 BN-GRAD-5",
    "var_dot": "BN-GRAD-4 BN-GRAD-5",
    "state.mean": "BN-RUN-1",
    "state.var": "BN-RUN-1 BN-RUN-3",
}


@pytest.mark.parametrize("output", GUILTY)
def test_one_output_that_is_off_fails_the_clauses_about_it(output: str) -> None:
    assert set(failed(Port(off(output)))) == set(GUILTY[output].split())


def test_two_outputs_that_are_off_fail_the_clauses_of_both() -> None:
    both = Port(lambda rank: off("dbeta")(off("dgamma")(rank)))
    found = failed(both, "test_gradients::test_vjp")
    assert set(found) == {"BN-GRAD-2", "BN-GRAD-3"}
    for clause, word in (("BN-GRAD-2", "dgamma"), ("BN-GRAD-3", "dbeta")):
        assert found[clause]["subjects"]["port"]["reasons"] == [f"{word} is off"]


def test_what_is_not_broken_is_untested_and_says_why() -> None:
    record = attempt(all_checks()["test_gradients::test_vjp"], Port(off("dx")), Budget(shrink=False))
    assert record.outcome == "failed"
    assert outcome_of(record, "BN-GRAD-1") == "failed"
    for clause in ("BN-GRAD-2", "BN-GRAD-3"):
        assert outcome_of(record, clause) == "untested"
        assert reason_of(record, clause) == "untested, because BN-GRAD-1 failed: dx is off"
    assert Record.from_json(json.loads(json.dumps(record.to_json(), default=str))).broken == ("BN-GRAD-1",)


def test_a_clause_that_the_check_does_not_cite_fails_all_the_same() -> None:
    found = failed(Port(off("dx")), "test_shapes::test_every_axis")
    assert set(found) == {"BN-GRAD-1"}


def test_an_axis_that_is_wrong_is_no_formula() -> None:
    port = Port()
    inner = port.run

    def run(case: Case) -> Outcome:
        rank = inner(case).ranks[0]
        first = case.config.axis % case.ranks[0].x.ndim == 0
        return Outcome((off("y")(rank) if first else rank,))

    port.run = run  # type: ignore[method-assign]
    assert set(failed(port, "test_shapes::test_every_axis")) == {"BN-SHAPE-2"}


def test_a_rounding_too_many_on_one_axis_is_no_wrong_axis() -> None:
    port = Port()
    inner = port.run

    def run(case: Case) -> Outcome:
        rank = inner(case).ranks[0]
        last = case.config.axis % case.ranks[0].x.ndim == case.ranks[0].x.ndim - 1
        if last or rank.y is None:
            return Outcome((rank,))
        return Outcome((dataclasses.replace(rank, y=rank.y * np.float32(1 + 2.0**-22)),))

    port.run = run  # type: ignore[method-assign]
    assert set(failed(port, "test_shapes::test_every_axis")) == {"BN-NORM-1"}


def test_a_state_that_an_empty_batch_loses_is_no_formula_even_where_that_is_off_too() -> None:
    port = Port()
    inner = port.run

    def run(case: Case) -> Outcome:
        rank = off("state.mean")(inner(case).ranks[0])
        if case.ranks[0].x.size or not rank.state:
            return Outcome((rank,))
        mean = np.full_like(rank.state["mean"], np.nan)
        return Outcome((dataclasses.replace(rank, state={**rank.state, "mean": mean}),))

    port.run = run  # type: ignore[method-assign]
    assert "BN-RUN-9" in failed(port, "test_shapes::test_empty")


@pytest.mark.parametrize(("more", "clause"), [((), "BN-GRAD-2"), (("mask",), "BN-MASK-5")])
def test_a_gradient_that_an_empty_batch_loses_is_nothing_about_channels(more: tuple[str, ...], clause: str) -> None:
    port = Port()
    port.scope = dataclasses.replace(port.scope, profiles=PROFILES.union(more))
    inner = port.run

    def run(case: Case) -> Outcome:
        rank = inner(case).ranks[0]
        if case.ranks[0].x.size or rank.dgamma is None:
            return Outcome((rank,))
        return Outcome((dataclasses.replace(rank, dgamma=np.full_like(rank.dgamma, np.nan)),))

    port.run = run  # type: ignore[method-assign]
    assert set(failed(port, "test_shapes::test_empty")) == {clause}


def test_a_number_that_is_off_in_16_bits_is_no_dtype_that_is_not_taken() -> None:
    port = Port()
    port.scope = dataclasses.replace(port.scope, dtypes=("float32", "bfloat16"))
    inner = port.run

    def run(case: Case) -> Outcome:
        rank = inner(case).ranks[0]
        return Outcome((off("y")(rank) if case.ranks[0].x.dtype.itemsize == 2 else rank,))

    port.run = run  # type: ignore[method-assign]
    assert set(failed(port, "test_shapes::test_dtypes")) == {"BN-PREC-2"}


def test_a_formula_that_the_control_does_not_show_is_asked_in_an_easy_case() -> None:
    from bnspec_conformance.checks.examples import example
    from bnspec_conformance.checks.state.test_renorm import config

    port = Port(off("dgamma"))
    options = {"averaging": ("exponential",), "renorm.form": ("tensorpack",)}
    port.scope = dataclasses.replace(port.scope, profiles=PROFILES | {"renorm"}, options=options, ndims=(2,))
    check = all_checks()["test_renorm::test_corrections_are_constants"]
    one_value = example(config("tensorpack"), [(1, 3)])  # without renorm its dgamma is 0, right or wrong
    record = check.attempt(port, Budget(), drawn=dataclasses.replace(one_value, dmean=None, dvar=None))
    assert record.booked["BN-GRAD-2"]["outcome"] == "failed"
    assert record.booked["BN-RENORM-2"]["outcome"] == "untested"


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_subject_of_one_dtype_breaks_no_check(dtype: str) -> None:
    port = Port()
    port.scope = dataclasses.replace(port.scope, dtypes=(dtype,))
    records = [attempt(check, port, Budget(examples=2, shrink=False)) for check in all_checks().values()]
    assert [record.reason for record in records if record.outcome == "failed"] == []


def test_writing_to_an_input_is_one_clause_and_hides_nothing() -> None:
    class Writes(Port):
        def run(self, case: Case) -> Outcome:
            outcome = super().run(case)
            if case.ranks[0].x.size:
                case.ranks[0].x[...] = 1
            return outcome

    assert set(failed(Writes(), "test_normalize::test_formula")) == {"BN-SHAPE-3"}
    assert set(failed(Writes(off("y")), "test_normalize::test_formula")) == {"BN-SHAPE-3", "BN-NORM-1"}


# Nothing is taken back ----------------------------------------------------------------------------------------

DECLINERS: dict[str, Callable[[Case], bool]] = {
    "small": lambda case: 0 < case.ranks[0].x.size < 8 * case.channels,
    "large": lambda case: case.ranks[0].x.size > 40,
    "most": lambda case: sum(case.ranks[0].x.tobytes()) % 5 != 0,
}
CHECKS = ("test_normalize::test_formula", "test_gradients::test_vjp", "test_running::test_exponential")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("declines", DECLINERS)
def test_a_subject_that_declines_cases_fails_where_it_is_wrong(declines: str, seed: int) -> None:
    wrong = Port(lambda rank: off("y")(off("dx")(off("state.mean")(rank))), DECLINERS[declines])
    for shrink in (True, False):
        found = failed(wrong, *CHECKS, seed=seed, shrink=shrink)
        assert {"BN-NORM-1", "BN-GRAD-1", "BN-RUN-1"} == set(found), f"shrink={shrink}"
    assert failed(Port(declines=DECLINERS[declines]), *CHECKS, seed=seed, shrink=True) == {}


def _break(t: Trial, number: int) -> None:
    t.require(number < 5, f"{number} is too much")


def _caught(t: Trial, number: int) -> None:
    try:
        _break(t, number)
    except Violation:
        return


def _declined_after(t: Trial, number: int) -> None:
    with t.found.gathering():
        t.require(number < 5, f"{number} is too much")
        raise NotSupported("no more of it")


def _lost(t: Trial, number: int) -> None:
    try:
        _break(t, number)
    except Violation:
        raise AssertionError from None


def _smaller_declined(t: Trial, number: int) -> None:
    if number < 500:
        raise (NeverSupported if t.found and number % 2 else NotSupported)("small numbers are declined")
    _break(t, number)


def _not_every_time(t: Trial, number: int) -> None:
    if number >= 5 and t.evidence.cases == 0:
        t.evidence.cases = 1
        _break(t, number)


def test_a_violation_counts_even_if_drawing_breaks_afterwards() -> None:
    seen: list[int] = []

    def drawn(number: int) -> int:
        if seen:
            raise HypothesisException("internal")
        return number

    def body(t: Trial, number: int) -> None:
        seen.extend([number] if number >= 5 else [])
        _break(t, number)

    check = clauses("BN-NORM-1")(explore(lambda s: st.integers(0, 1000).map(drawn))(body))
    record = check.attempt(Port(), Budget())  # type: ignore[attr-defined]
    assert record.outcome == "failed"
    assert record.violation["problem"] == f"{seen[0]} is too much"


@pytest.mark.parametrize("body", [_break, _caught, _declined_after, _lost, _smaller_declined, _not_every_time])
@pytest.mark.parametrize("shrink", [True, False])
def test_a_violation_counts_whatever_happens_afterwards(body: Any, shrink: bool) -> None:
    check = clauses("BN-NORM-1", "BN-MOM-2")(explore(lambda s: st.integers(0, 1000))(body))
    port = Port()
    port.examples = 60
    record = check.attempt(port, Budget(shrink=shrink))  # type: ignore[attr-defined]
    assert record.outcome == "failed", record.reason
    assert record.violation is not None
    assert int(record.violation["problem"].split()[0]) >= 5, "what is reported was seen"
    assert outcome_of(record, "BN-NORM-1") == "failed"


def test_what_is_reported_is_the_smallest_that_was_found() -> None:
    check = clauses("BN-NORM-1")(explore(lambda s: st.integers(0, 1000))(_break))
    record = check.attempt(Port(), Budget(shrink=True))  # type: ignore[attr-defined]
    assert record.violation is not None
    assert record.violation["problem"] == "5 is too much"
    assert record.violation["drawn"] == {"kind": "plain", "value": 5}


def test_nothing_is_made_up_where_nothing_was_seen() -> None:
    def declines(t: Trial, number: int) -> None:
        raise NotSupported("none of it")

    check = clauses("BN-NORM-1")(explore(lambda s: st.integers())(declines))
    record = check.attempt(Port(), Budget())  # type: ignore[attr-defined]
    assert (record.outcome, record.reason) == ("not supported", "none of it")


def test_a_check_that_asks_nothing_is_no_pass() -> None:
    def asks_nothing(t: Trial) -> None:
        for case in filter(t.takes, ()):
            t.agree(case, "y")

    def requires(t: Trial) -> None:
        t.require(True, "a plain fact")

    empty, plain = (clauses("BN-NORM-1")(explore()(body)) for body in (asks_nothing, requires))
    record = empty.attempt(Port(), Budget())  # type: ignore[attr-defined]
    assert (record.outcome, record.reason) == ("untested", "nothing was asked")
    assert plain.attempt(Port(), Budget()).outcome == "passed"  # type: ignore[attr-defined]


# In words -----------------------------------------------------------------------------------------------------


def test_a_row_that_failed_gives_the_reason_of_its_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bnspec_conformance.report import table

    lines = [
        Record("test_a::test_a", ("BN-NORM-1",), "port", "not supported", 0.1, reason="only bnspec has its layers"),
        attempt(all_checks()["test_normalize::test_formula"], Port(off("y")), Budget(shrink=False)),
    ]
    port = Port()
    content = document(lines, {"port": port}, seed=0, max_examples=None, seconds=1.0, command="run")  # type: ignore[dict-item]
    assert content["clauses"]["BN-NORM-1"]["subjects"]["port"]["reasons"][0] == "y is off"
    import sys

    table(content, sys.stdout)
    assert "failed: y is off" in " ".join(capsys.readouterr().out.split())
    assert "layers" not in capsys.readouterr().out
    write_junit(tmp_path / "out.xml", content)
    failures = ET.parse(tmp_path / "out.xml").getroot().findall(".//failure")
    assert [f.attrib["message"] for f in failures] == ["y is off"]


def test_an_error_next_to_zero_is_told_as_it_is() -> None:
    class Off(Port):
        def run(self, case: Case) -> Outcome:
            rank = super().run(case).ranks[0]
            assert rank.dbeta is not None
            return Outcome((dataclasses.replace(rank, dbeta=np.where(rank.dbeta == 0, 1e-3, rank.dbeta)),))

    from bnspec_conformance.checks.examples import config
    from bnspec_conformance.checks.examples import example as made

    case = made(config())
    rank = dataclasses.replace(case.ranks[0], dy=np.zeros_like(case.ranks[0].x), xdot=None)
    still = dataclasses.replace(case, ranks=(rank,), dmean=None, dvar=None, state=None, gamma_dot=None, beta_dot=None)
    trial = Trial(Off(), ("BN-GRAD-3",))
    with pytest.raises(Violation, match=r"error     0\.001, bound .*absolute") as caught:
        trial.agree(still, "dbeta")
    assert "ulp" not in str(caught.value)
