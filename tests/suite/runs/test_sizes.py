"""Large cases: their reference is as good as the exact one, the option chooses them, and a failure runs again."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnspec_conformance import Case, Outcome, find_subject
from bnspec_conformance.bounds import bounds
from bnspec_conformance.cases.codecs.argument_codec import argument_from_json, argument_to_json
from bnspec_conformance.cases.inputs.sizes import Size, batch_sizes, half_sizes, inference_sizes, part_sizes, spread
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.cli import main
from bnspec_conformance.oracle import exact, float64
from bnspec_conformance.report import read_report
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import Subject, complete
from bnspec_conformance.trials.budget import Budget

SIZES: tuple[Callable[..., list[Size]], ...] = (batch_sizes, half_sizes, part_sizes, inference_sizes)
EVERY = Scope(dtypes=("float16", "bfloat16", "float32", "float64"))


def test_the_tables_have_the_edges() -> None:
    found = batch_sizes(EVERY, "default", 0)
    for last in (True, False):
        form = [s for s in found if (s.axis == len(s.shape) - 1) == last or len(s.shape) == 2]
        assert {5, 31, 33, 65, 257, 1025, 65537} <= {s.shape[s.axis] for s in form}
        assert {255, 256, 257, 769, 1025, 4097, 10007, 67 * 67, 100 * 100} <= {s.count for s in form}
    for sizes in SIZES:
        assert sizes(EVERY, "none", 0) == []
        default = sizes(EVERY, "default", 0)
        assert set(default) <= set(sizes(EVERY, "large", 0))
        assert 1 <= len(sizes(EVERY, "default", 0, compiles=True)) <= 2
        assert [s.shape for s in default] == sorted((s.shape for s in default), key=np.prod)


@pytest.mark.parametrize("axes", ["first", "last"])
def test_sizes_keep_to_a_scope(axes: Any) -> None:
    scope = Scope(profiles=frozenset({"core"}), dtypes=("float32",), ndims=(4,), axes=axes, world=1)
    for size in (s for sizes in SIZES[:1] for s in sizes(scope, "large", 0)):
        assert scope.reason(size.case(scope)) is None
        assert len(size.shape) == 4
    assert part_sizes(scope, "default", 0) == []


def test_numbers_of_channels_differ() -> None:
    for which in range(6):
        values = spread(131073, which)
        assert len(set(values)) == len(values)
        assert np.array_equal(values, values.astype("float32"))
        assert np.min(np.abs(np.diff(values[:70000]))) > 0.1


SMALL = (
    Size((255, 5), 1),
    Size((3, 17, 41, 5), 3, seed=2),
    Size((2, 5, 19, 23), 1, dtype="float64"),
    Size((3, 5, 17, 41), 1, dtype="float64", masked=True, seed=1),
    Size((6, 29, 5), 2, dtype="float16", virtual_batch_size=2),
    Size((257, 5), 1, mode="inference"),
)


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_the_reference_is_as_good_as_the_exact_one(size: Size) -> None:
    case = size.case(EVERY)
    want, found = exact(case), float64(case)
    allowed = bounds(case, want).ranks[0]
    for field in dataclasses.fields(want.ranks[0]):
        right, near, limit = (getattr(o, field.name) for o in (want.ranks[0], found.ranks[0], allowed))
        if field.name == "mean_low":  # float64 has the mean in one number
            continue
        if right is None:
            assert near is None
            continue
        pairs = [(right[k], near[k], limit[k]) for k in right] if field.name == "state" else [(right, near, limit)]
        for a, b, bound in pairs:
            assert np.all(np.abs(b - a) <= bound / 8), field.name


class Spoilt:
    """bnspec's numbers with gamma wrong from channel 5 on, without bnspec's name."""

    name, scope = "spoilt", dataclasses.replace(EVERY, dtypes=("float32",))
    right = find_subject("numpy-specification")

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        gamma = None if case.gamma is None else case.gamma[np.minimum(np.arange(case.channels), 4)]
        return self.right.run(dataclasses.replace(case, gamma=gamma))


@pytest.fixture
def spoilt() -> Subject:
    return complete(Spoilt(), "spoilt")


CHECK = all_checks()["test_sizes::test_batch"]


def test_a_fault_that_begins_at_a_size_is_found_and_runs_again(spoilt: Subject) -> None:
    record = attempt(CHECK, spoilt, Budget())
    assert record.outcome == "failed"
    assert record.broken[:1] == ("BN-NORM-1",)
    details = record.violation or {}
    size = argument_from_json(json.loads(json.dumps(details["drawn"])))
    assert size == Size((257, 31), 1)
    assert argument_to_json(size) == details["drawn"]
    assert attempt(CHECK, spoilt, Budget(), drawn=size).outcome == "failed"
    assert attempt(CHECK, find_subject("numpy-specification"), Budget(), drawn=size).outcome == "passed"
    assert len(details["script"].splitlines()) < 15
    assert len(details["script"]) < 2000


def test_the_script_of_a_large_case_runs(spoilt: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    details = attempt(CHECK, spoilt, Budget()).violation or {}
    exec(details["script"].replace("find_subject('spoilt')", "find_subject('numpy-specification')"), {})
    assert capsys.readouterr().out.count("[[") == 2


def test_none_leaves_them_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    arguments = ["run", "numpy-specification", "-k", "test_sizes or test_kinds", "--clause", "BN-INF-1", "--json"]
    assert main([*arguments, str(path), "--sizes", "none"]) == 0
    report = read_report(path)
    assert report["sizes"] == "none"
    assert "--sizes none" in report["command"]
    found = {c["check"]: (c["outcome"], c["reason"]) for c in report["checks"]}
    assert found["test_sizes::test_inference"][0] == "untested"
    assert "--sizes none" in found["test_sizes::test_inference"][1]
    capsys.readouterr()


def test_another_choice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "numpy", "--sizes", "huge"])
    assert ended.value.code == 2
    assert "huge" in capsys.readouterr().err
