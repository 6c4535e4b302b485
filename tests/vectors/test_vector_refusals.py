"""Refusals in `vectors run`: a port is asked for those that it says it makes, as in `run`."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnspec_conformance import Case, Outcome, RankOutcome, find_subject
from bnspec_conformance.cases.inputs.bad import refused_by
from bnspec_conformance.cases.limits import REFUSED
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects import NotSupported, complete
from bnspec_conformance.subjects.pipe.program import Program
from bnspec_conformance.vectors.export import export
from bnspec_conformance.vectors.files import RESULTS, Vectors, read_results, read_vectors
from bnspec_conformance.vectors.run import run_vectors, write_results
from bnspec_conformance.vectors.verify import Verdict, verify

EVERY = Scope(dtypes=("float32", "float16", "bfloat16"), world=2, refuses=True)

#: Clauses of `REFUSED` that have vectors.
WITH_VECTORS = tuple(clause for clause in REFUSED if clause != "BN-RUN-14")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    made = tmp_path_factory.mktemp("vectors")
    export(made, ("refused",))
    return read_vectors(made)


def made_up(case: Case) -> Outcome:
    return Outcome(tuple(RankOutcome(y=np.zeros(r.x.shape, "float32")) for r in case.ranks))


def properly(case: Case) -> Outcome:
    return find_subject("numpy-specification").run(case)


@dataclasses.dataclass
class Port:
    """Does with every case what `act` does."""

    act: Callable[[Case], Any]
    scope: Scope = EVERY
    name: str = "port"
    backend: None = None

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Any:
        return self.act(case)


def judged(vectors: Vectors, port: Any, path: Path) -> Verdict:
    write_results(path, run_vectors(complete(port, "port") if isinstance(port, Port) else port, vectors))
    return verify(vectors, read_results(path))


def of(vectors: Vectors, clause: str) -> list[str]:
    """Names of the cases that a clause has refused, of those that a configuration can be made for."""
    cases = {n: c for n, c in vectors.cases.items() if c["refused"]["clause"] == clause}
    return [n for n in cases if n not in ("refused/groups-of-0", "refused/groups-of-minus-2", "refused/groups-of-2.5")]


@pytest.mark.parametrize("clause", WITH_VECTORS)
def test_a_port_owes_the_refusals_that_it_declares_and_no_others(vectors: Vectors, clause: str, tmp_path: Path) -> None:
    names = of(vectors, clause)
    assert names
    mine, others = (dataclasses.replace(EVERY, refuses=r) for r in ((clause,), tuple({*REFUSED} - {clause})))
    for act, scope, outcome in (
        (properly, mine, "passed"),
        (made_up, mine, "failed"),
        (made_up, others, "not supported"),
    ):
        verdict = judged(vectors, Port(act, scope), tmp_path / "r.json")
        assert {n: verdict.cases[n] for n in names} == dict.fromkeys(names, outcome)
    silent = run_vectors(complete(Port(made_up, others), "port"), vectors)["results"]
    assert {silent[n]["unsupported"] for n in names} == {f"it does not say that it refuses what {clause} has refused"}


def test_what_an_option_asks_for_is_owed_whatever_is_declared(vectors: Vectors, tmp_path: Path) -> None:
    names = of(vectors, "BN-RUN-10") + [n for n in of(vectors, "BN-RUN-4") if "/one-value" in n]
    plain = dataclasses.replace(EVERY, refuses=False)
    for act, outcome in ((properly, "passed"), (made_up, "failed")):
        verdict = judged(vectors, Port(act, plain), tmp_path / "r.json")
        assert {n: verdict.cases[n] for n in names} == dict.fromkeys(names, outcome)


def test_clauses_without_a_word_are_not_asked(vectors: Vectors) -> None:
    answers = run_vectors(complete(Port(made_up), "port"), vectors)["results"]
    for name in of(vectors, "BN-GRAD-1"):
        assert answers[name] == {"unsupported": "a scope has no word for the refusals of BN-GRAD-1"}


def test_what_is_out_of_reach_is_not_asked(vectors: Vectors) -> None:
    narrow = dataclasses.replace(EVERY, axes="last", dtypes=("float32",), ragged=False)
    answers = run_vectors(complete(Port(made_up, narrow), "port"), vectors)["results"]
    for name, reason in (
        ("axis-2", "its channels are on the last axis"),
        ("axis--3", "its channels are on the last axis"),
        ("groups-on-axis-0", "its channels are on the last axis"),
        ("state-of-float16", "it has no float16"),
        ("groups-differ", "its ranks are a mapped axis, so that all have one shape"),
    ):
        assert answers[f"refused/{name}"] == {"unsupported": reason}, name
    assert "ranks" in answers["refused/int32-x"]


def _crashes(case: Case) -> Outcome:
    raise NotImplementedError("no such kernel")


def _exits(case: Case) -> Outcome:
    raise SystemExit(3)


def _declines(case: Case) -> Outcome:
    raise NotSupported("beyond it")


def _divides(case: Case) -> Outcome:
    raise ZeroDivisionError("any error of a port's own will do")


@pytest.mark.parametrize(
    ("act", "outcome", "text"),
    [
        (_crashes, "failed", "it broke: NotImplementedError: no such kernel"),
        (_exits, "failed", "it broke: SystemExit: 3"),
        (_declines, "not supported", ""),
        (_divides, "passed", ""),
    ],
)
def test_what_is_no_refusal(
    vectors: Vectors, tmp_path: Path, act: Callable[[Case], Any], outcome: str, text: str
) -> None:
    verdict = judged(vectors, Port(act), tmp_path / "r.json")
    for name in (*of(vectors, "BN-MASK-7"), *of(vectors, "BN-RUN-10")):
        assert verdict.cases[name] == outcome
        assert [f.text for f in verdict.failures if f.case == name] == ([text] if text else [])


def test_a_crash_in_a_case_with_outputs_fails_it_too(tmp_path: Path) -> None:
    export(tmp_path / "v", ("jvp",))
    found = judged(read_vectors(tmp_path / "v"), Port(_crashes, Scope()), tmp_path / "r.json")
    assert set(found.cases.values()) == {"failed"}
    assert {f.text for f in found.failures if f.what == "the case"} == {"it broke: NotImplementedError: no such kernel"}


# Over a pipe --------------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "hello":
        answer = {"protocol": 1, "name": "piped", "profiles": ["core", "running"], "refuses": ["BN-SHAPE-6"]}
    elif sys.argv[1] == "crash":
        sys.exit(3)
    else:
        answer = {sys.argv[1]: "no such shape"}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "declared", "by_option"),
    [
        ("refused", "passed", "passed"),
        ("error", "passed", "failed"),  # an error of its own is a refusal only of what `refuses` speaks of
        ("unsupported", "not supported", "not supported"),
        ("crash", "failed", "failed"),
    ],
)
def test_an_error_over_a_pipe_refuses_what_is_declared(
    vectors: Vectors, tmp_path: Path, kind: str, declared: str, by_option: str
) -> None:
    path = tmp_path / "piped.py"
    path.write_text(PROGRAM)
    kept = {n: vectors.cases[n] for n in ("refused/gamma-of-4", "refused/one-value-exponential", "refused/int32-x")}
    program = Program(f"exec:{sys.executable} {path} {kind}")
    try:
        verdict = judged(Vectors(vectors.index, kept), program, tmp_path / "r.json")
    finally:
        program.close()
    assert list(verdict.cases.values()) == [declared, by_option, "not supported"]


def test_a_file_of_results_with_an_error_keeps_to_its_schema(vectors: Vectors) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schemas = Path(str(sys.modules["bnspec_conformance"].__file__)).parent / "schemas"
    schema = json.loads((schemas / "results.schema.json").read_text())
    results = run_vectors(complete(Port(_crashes), "port"), vectors)
    assert results["format"] == RESULTS
    assert any("error" in answer for answer in results["results"].values())
    jsonschema.validate(results, schema)


def test_every_vector_of_a_declared_refusal_is_known_as_one_over_a_pipe(vectors: Vectors) -> None:
    from bnspec_conformance.vectors.run import case_of

    for clause in WITH_VECTORS:
        assert {refused_by(case_of(vectors.cases[n])) for n in of(vectors, clause)} == {clause}
