"""TensorFlow.js on a pipe: examples/port-js is right where it declares to be, and fails where its README says so."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import compare

from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import ProgramError, find_subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.violations.violation import Violation

FOLDER = Path(__file__).parents[2] / "examples" / "port-js"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules").is_dir(),
        reason="the packages of examples/port-js are not installed (make test-js)",
    ),
]


@pytest.fixture(scope="module", params=["", " --all"], ids=["as it declares", "all"])
def port(request: pytest.FixtureRequest) -> Any:
    return find_subject(f"exec:node {FOLDER / 'port.mjs'}{request.param}", deadline=60.0)


def last(made: Any, shape: tuple[int, ...] = (6, 3), **fields: Any) -> Case:
    case: Case = made.scope.fit(example(config(axis=len(shape) - 1, **fields), [shape]))
    return case


def test_the_layer_computes_what_it_declares(port: Any) -> None:
    assert re.fullmatch(r"tfjs(-all)? \d+\.\d+\.\d+", port.version())
    for shape in ((6, 3), (4, 2, 3), (2, 2, 2, 3)):
        compare(port, last(port, shape), "y", "state", "dx", "dgamma", "dbeta")


def test_what_is_declared_by_all_is_wrong(port: Any) -> None:
    elsewhere = example(config(axis=1), [(4, 3, 2)])
    if not port.name.endswith("all"):
        assert "last axis" in str(port.supports(port.scope.fit(elsewhere)))
        assert "scale" in str(port.supports(last(port, scale=False)))
        return
    case = port.scope.fit(elsewhere)
    forward = type(case)(config=case.config, ranks=(type(case.ranks[0])(case.ranks[0].x),))
    with pytest.raises(Violation, match="y is off"):
        compare(port, forward, "y")
    with pytest.raises(ProgramError, match="Cannot read properties"):
        port.run(last(port, scale=False))


def test_the_clauses_of_the_readme_fail(port: Any) -> None:
    if port.name.endswith("all"):
        pytest.skip("the table is about what the program declares")
    told = set(re.findall(r"BN-[A-Z]+-\d+", (FOLDER / "README.md").read_text()))
    broken: set[str] = set()
    checks = ["test_running::test_count_zero", "test_running::test_extreme_weights", "test_shapes::test_empty"]
    checks += [f"test_normalize::{name}" for name in ("test_hard_families", "test_constant_of_many")]
    for name in [*checks, "test_gradients::test_hard_families"]:
        broken |= set(attempt(all_checks()[name], port, Budget(20, seed=0, shrink=False)).broken)
    assert broken == told


def test_results_are_float32(port: Any) -> None:
    (got,) = port.run(last(port)).ranks
    assert {got.y.dtype, got.dx.dtype, got.dgamma.dtype, got.state["mean"].dtype} == {np.dtype("float32")}
