"""Vectors as files: the same bytes everywhere, true to their own laws, and a judge that finds what is wrong."""

import argparse
import base64
import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnspec_conformance
from bnspec._clauses import clauses as specification
from bnspec_conformance import find_subject
from bnspec_conformance.bounds import violations
from bnspec_conformance.cases.case import dtype_named
from bnspec_conformance.commands import vectors as command
from bnspec_conformance.vectors.catalogue import FAMILIES
from bnspec_conformance.vectors.files import BadFile, Results, Vectors, read_results, read_vectors
from bnspec_conformance.vectors.hex import hexed, rounded_up, unhexed
from bnspec_conformance.vectors.judge import flattened, values
from bnspec_conformance.vectors.run import run_vectors
from bnspec_conformance.vectors.stream import Stream
from bnspec_conformance.vectors.verify import Verdict, verify

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(bnspec_conformance.__file__).parent / "schemas"
DOCS = (ROOT / "docs" / "vectors.md").read_text(encoding="utf-8")


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    options = parser.parse_args(["vectors", *map(str, arguments)])
    return int(options.call(options))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Exports of two processes: with other hashes, and with NumPy held from the instructions it would choose here."""
    from numpy._core._multiarray_umath import (  # type: ignore[import-not-found]
        __cpu_dispatch__,
        __cpu_features__,
    )

    parent = tmp_path_factory.mktemp("vectors")
    features = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])
    code = "import sys; from pathlib import Path; from bnspec_conformance.vectors.export import export"
    code += "; export(Path(sys.argv[1]))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends"), str(ROOT / "conformance")])
    both: list[Any] = []
    for name, more in (("one", {}), ("other", {"NPY_DISABLE_CPU_FEATURES": features} if features else {})):
        environment = os.environ | {"PYTHONHASHSEED": str(len(both) + 1), "PYTHONPATH": paths} | more
        both.append(subprocess.Popen([sys.executable, "-c", code, str(parent / name)], env=environment))
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    return parent / "one", parent / "other"


@pytest.fixture(scope="module")
def folder(exported: tuple[Path, Path]) -> Path:
    return exported[0]


@pytest.fixture(scope="module")
def vectors(folder: Path) -> Vectors:
    return read_vectors(folder)


@pytest.fixture(scope="module")
def numpy_answers(vectors: Vectors) -> dict[str, Any]:
    return run_vectors(find_subject("bnspec_conformance.subjects.own.backends:numpy"), vectors)


class Port:
    """The vectors of some families and NumPy's answers to them, to be spoilt."""

    def __init__(self, vectors: Vectors, answers: dict[str, Any], *families: str) -> None:
        cases = {name: case for name, case in vectors.cases.items() if name.split("/")[0] in families}
        self.vectors = Vectors(vectors.index, cases)
        self.answers = copy.deepcopy({name: answers[name] for name in cases})

    def held(self, case: str, output: str) -> Any:
        """The array of an output."""
        name, _, field = output.partition(".")
        held = self.answers[case]["ranks"][0][name]
        return held[field] if field else held

    def get(self, case: str, output: str, position: int) -> float:
        return unhexed(self.held(case, output)["data"][position])

    def put(self, case: str, output: str, position: int, value: float) -> None:
        self.held(case, output)["data"][position] = hexed(value)

    def judged(self, arithmetic: Any = "float64", *, flushes: bool = False) -> Verdict:
        return verify(self.vectors, Results("port", "1", arithmetic, flushes, self.answers))


@pytest.fixture
def port(vectors: Vectors, numpy_answers: dict[str, Any]) -> Callable[..., Port]:
    return lambda *families: Port(vectors, numpy_answers["results"], *families)


# The export ------------------------------------------------------------------------------------------------


def test_the_same_bytes_whatever_the_hashes_and_the_processor(exported: tuple[Path, Path]) -> None:
    one, other = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in exported)
    assert sorted(one) == sorted([*(f"{family}.json" for family in FAMILIES), "index.json"])
    assert [name for name in one if one[name] != other[name]] == []


def test_size_and_number(folder: Path, vectors: Vectors) -> None:
    assert 300 <= len(vectors.cases) == vectors.index["cases"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_every_file_keeps_to_its_schema(folder: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / "vectors.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in folder.iterdir():
        value = json.loads(path.read_text())
        if "cases" in value and isinstance(value["cases"], list):
            value["cases"] = value["cases"][:: 1 if path.stat().st_size < 2e5 else 6]
        jsonschema.validate(value, schema)


def test_the_schema_refuses_what_is_no_vector(folder: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / "vectors.schema.json").read_text())
    good = json.loads((folder / "cotangents.json").read_text())
    good["cases"] = good["cases"][:1]
    jsonschema.validate(good, schema)
    for spoil in (
        lambda case: case.pop("why"),
        lambda case: case.update(expect="refused"),
        lambda case: case["outputs"][0]["dx"]["bounds"].append("-0x1p+0"),
        lambda case: case["inputs"]["ranks"][0]["x"]["data"].append("0.5"),
        lambda case: case["config"].update(epsilon=-1.0),
    ):
        bad = copy.deepcopy(good)
        spoil(bad["cases"][0])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_clauses_exist_and_every_case_says_why(vectors: Vectors) -> None:
    known = specification()
    for name, case in vectors.cases.items():
        assert set(case["clauses"]) <= set(known), name
        assert case["why"].endswith("."), name
        assert case["profiles"], name


def test_the_expected_answers_keep_the_relations(vectors: Vectors) -> None:
    count = 0
    for name, case in vectors.cases.items():
        for relation in case.get("relations", []):
            for pair in relation["pairs"]:
                sides = []
                for holder, prefix in ((case, ""), (vectors.cases[relation["with"]], "with_")):
                    want = flattened(holder["outputs"][pair[f"{prefix}rank"]])[pair[f"{prefix}output"]]
                    take = pair.get(f"{prefix}take", slice(None))
                    bounds = np.array([unhexed(v) for v in want["bounds"]])[take]
                    sides.append((values(want).ravel()[take], bounds))
                (mine, near), (its, far) = sides
                assert mine.shape == its.shape, (name, relation["kind"])
                same = (mine == its) | (np.isnan(mine) & np.isnan(its))
                if relation["equal"] == "within bounds":  # the inputs differ in their last bits by rounding, if at all
                    same |= np.abs(mine - its) <= near + far
                assert same.all(), (name, relation["kind"], pair)
                count += 1
    assert count > 300


def test_only_what_is_asked_for_is_written(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", tmp_path, "--profile", "jvp,cotangents") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cotangents.json", "index.json", "jvp.json"]
    assert (tmp_path / "jvp.json").read_bytes() == (folder / "jvp.json").read_bytes()
    assert "38 cases" in capsys.readouterr().out
    assert call("export", tmp_path, "--profile", "jvp", "--seed", "1") == 0
    assert (tmp_path / "jvp.json").read_bytes() != (folder / "jvp.json").read_bytes()
    assert call("export", tmp_path, "--profile", "gost") == 2
    assert "there are no vectors 'gost'; expected some of core, " in capsys.readouterr().err


def test_drawn_numbers_are_fixed_for_ever() -> None:
    stream = Stream(0, "core/example")
    assert [hex(stream.bits(64)) for _ in range(2)] == ["0xc0b24b5c3e293479", "0xa60c7b23bca76001"]
    assert stream.integers(3, 9) in range(3, 9)
    normals = Stream(1).normals((2000,))
    assert abs(normals.mean()) < 0.1
    assert 0.9 < normals.std() < 1.1
    assert sorted(Stream(2).permutation(np.arange(50)).tolist()) == list(range(50))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.5, 0.1, 2.0**-1074, -(2.0**-1040), 1.7e308, math.inf, -math.inf])
def test_a_hex_float_is_the_number(value: float) -> None:
    assert unhexed(hexed(value)) == value
    assert math.copysign(1, unhexed(hexed(value))) == math.copysign(1, value)
    assert float.fromhex(hexed(value)) == value
    assert math.isnan(unhexed(hexed(math.nan)))


def test_decimals_are_no_hex_floats() -> None:
    for text in ("1.5", "10", "", "0x", "1e5"):
        with pytest.raises(ValueError, match=r"hex|invalid"):
            unhexed(text)


def test_a_bound_is_rounded_up_and_steps_over_its_last_bits() -> None:
    for bound in (0.1, 1.0, 3e-300, 7.0 / 3, 2.0**-24):
        up = rounded_up(bound)
        assert bound <= up <= bound * (1 + 2.0**-10)
        assert len(hexed(up).split("p")[0]) <= len("0x1.ffe")
        near = [np.nextafter(bound, 0), np.nextafter(bound, 9)]
        assert {rounded_up(float(v)) for v in near} == {up}
    assert rounded_up(0.0) == 0.0
    assert rounded_up(math.inf) == math.inf


# Results ---------------------------------------------------------------------------------------------------


def test_numpy_passes_everything(vectors: Vectors, numpy_answers: dict[str, Any]) -> None:
    answers = numpy_answers["results"]
    verdict = verify(vectors, Results("numpy", "1", "float64", False, answers))
    assert verdict.failures == []
    assert set(verdict.cases.values()) == {"passed"}
    assert {own.outcome for own in verdict.clauses.values()} == {"passed"}
    refused = [name for name, case in vectors.cases.items() if case["expect"] == "refused"]
    assert [name for name, answer in answers.items() if "refused" in answer] == refused


@pytest.mark.parametrize(
    ("case", "output", "position", "clause"),
    [
        ("core/drawn-0", "y", 0, "BN-NORM-1"),
        ("core/exact-n7", "var", 1, "BN-MOM-6"),
        ("core/constant-thirds", "y", 2, "BN-NORM-5"),
        ("core/isolated-nan", "y", 1, "BN-MOM-9"),
        ("grad/far", "dx", 3, "BN-GRAD-1"),
        ("grad/far", "dgamma", 0, "BN-GRAD-2"),
        ("jvp/rank-3", "ydot", 5, "BN-GRAD-4"),
        ("running/pooled-merged-correction-1", "state.var", 1, "BN-RUN-6"),
        ("running/decay-1", "state.mean", 1, "BN-RUN-11"),
        ("inference/far-mean", "y", 4, "BN-INF-1"),
        ("ghost/matrix", "y", 7, "BN-GRP-2"),
        ("renorm/paper-r-above", "y", 3, "BN-RENORM-1"),
        ("mask/held-nan", "dgamma", 1, "BN-MASK-3"),
        ("sync/uneven", "y", 0, "BN-SYNC-1"),
        ("precision/bfloat16-ties", "y", 1, "BN-PREC-2"),
    ],
)
def test_the_next_number_but_one_fails_with_its_clause(
    port: Callable[..., Port], case: str, output: str, position: int, clause: str
) -> None:
    own = port(case.split("/")[0])
    want = flattened(own.vectors.cases[case]["outputs"][0])[output]
    dtype = dtype_named("float64" if want["dtype"] == "W" else want["dtype"])
    old = np.asarray(own.get(case, output, position)).astype(dtype)
    own.put(case, output, position, float(np.nextafter(np.nextafter(old, dtype.type(np.inf)), dtype.type(np.inf))))
    verdict = own.judged()
    found = [f for f in verdict.failures if f.case == case and f.what.split(" on ")[0] == output]
    assert len(found) == 1
    assert clause in found[0].clauses
    assert np.ravel_multi_index(tuple(found[0].index or ()), want["shape"]) == position
    assert found[0].error_ulp > found[0].bound_ulp
    assert verdict.clauses[clause].outcome == "failed"
    assert verdict.clauses[clause].worst == found[0]
    assert not verdict.passed
    json.dumps(verdict.to_json(), allow_nan=False)


def test_results_that_are_each_right_can_break_a_law(port: Callable[..., Port]) -> None:
    own = port("ghost")
    own.put("ghost/matrix-group-1", "var", 0, float(np.nextafter(own.get("ghost/matrix-group-1", "var", 0), 9)))
    (failure,) = own.judged().failures
    assert (failure.case, failure.clauses) == ("ghost/matrix-group-1", ("BN-GRP-4",))
    assert failure.what == "group alone, to the bit, with ghost/matrix"
    assert failure.text == "var is not equal"


def test_ranks_must_agree_to_the_bit(port: Callable[..., Port]) -> None:
    own = port("sync")
    own.put("sync/uneven", "mean", 0, float(np.nextafter(own.get("sync/uneven", "mean", 0), 9)))
    (failure,) = own.judged().failures
    assert (failure.clauses, failure.text) == (("BN-SYNC-2",), "mean on rank 1 is not equal")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0])
def test_values_that_are_not_finite_fail(port: Callable[..., Port], value: float) -> None:
    own = port("grad")
    own.put("grad/far", "dx", 0, value)
    (failure,) = own.judged().failures
    assert failure.index == [0, 0]
    json.dumps(own.judged().to_json(), allow_nan=False)


def test_a_count_is_right_or_wrong(port: Callable[..., Port]) -> None:
    own = port("core")
    own.held("core/drawn-0", "count")["data"] = [4321]
    (failure,) = own.judged().failures
    assert failure.clauses == ("BN-MOM-1", "BN-GRP-1")
    assert failure.got == 4321


def test_refusals(port: Callable[..., Port]) -> None:
    own = port("refused", "jvp")
    own.answers["refused/epsilon-negative"] = {"ranks": [{"y": [0.0] * 12}]}
    own.answers["jvp/drawn-0"] = {"refused": "too warm"}
    found = {f.case: (f.clauses, f.text) for f in own.judged().failures}
    assert found["refused/epsilon-negative"] == (("BN-NORM-1",), "it was not refused: there are results")
    assert found["jvp/drawn-0"] == (("BN-GRAD-4",), "it was refused: too warm")


def test_what_is_left_out_is_no_pass(port: Callable[..., Port]) -> None:
    own = port("core")
    del own.answers["core/drawn-0"]
    del own.answers["core/drawn-1"]["ranks"][0]["y"]
    own.answers["core/drawn-2"] = {"unsupported": "no such shape"}
    verdict = own.judged()
    assert verdict.passed
    assert (verdict.cases["core/drawn-0"], verdict.cases["core/drawn-2"]) == ("untested", "not supported")
    assert verdict.clauses["BN-NORM-1"].cases["untested"] == 2
    assert verdict.clauses["BN-NORM-1"].cases["not supported"] == 1
    own.answers = {}
    assert not own.judged().passed
    assert set(own.judged().cases.values()) == {"untested"}


def test_a_relation_to_what_is_not_supported_is_not_untested(port: Callable[..., Port]) -> None:
    own = port("renorm")
    own.answers["renorm/paper-without-float64"] = {"unsupported": "no float64"}
    passed = {"failed": 0, "passed": 4, "untested": 0, "not supported": 0}
    assert own.judged().clauses["BN-RENORM-3"].cases == passed
    own.answers["renorm/paper-closed-float64"] = {"unsupported": "no float64"}
    assert own.judged().clauses["BN-RENORM-3"].cases == passed | {"passed": 3, "not supported": 1}


def test_a_declared_flush_leaves_subnormal_cases_out(port: Callable[..., Port]) -> None:
    own = port("core")
    flushed = [name for name, case in own.vectors.cases.items() if "subnormal" in case["flags"]]
    assert "core/constant-subnormal" in flushed
    verdict = own.judged(flushes=True)
    assert {verdict.cases[name] for name in flushed} == {"not supported"}
    assert verdict.count("not supported") == len(flushed)


# The forms of a result -------------------------------------------------------------------------------------


def encodings(array: np.ndarray) -> Iterator[Any]:
    plain = [float(v) for v in array.ravel()]
    yield [hexed(v) for v in plain]
    yield np.asarray(plain).reshape(array.shape).tolist()
    yield [float(f"{v:.9g}") for v in plain]
    yield {"data": [hexed(v) for v in plain], "shape": list(array.shape)}
    data = base64.b64encode(array.astype("<f4").tobytes()).decode()
    yield {"dtype": "float32", "shape": list(array.shape), "data": data}


def test_every_form_of_an_array_is_read(port: Callable[..., Port]) -> None:
    own = port("core")
    held = own.held("core/rank-3-axis-1", "y")
    y = np.asarray([unhexed(v) for v in held["data"]], np.float32).reshape(held["shape"])
    for form in encodings(y):
        own.answers["core/rank-3-axis-1"]["ranks"][0]["y"] = form
        verdict = own.judged()
        assert verdict.failures == []
        assert verdict.count("untested") == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([0.5] * 11, "y has 11 numbers; expected 12, for shape [4, 3]"),
        ([[0.5] * 4] * 3, "y has shape [3, 4]; expected [4, 3]"),
        ([[0.5] * 4, [0.5] * 3], "y is a list of lists of different lengths; expected one shape throughout"),
        ([0.5] * 11 + ["0.5"], "y has at position 11 '0.5'; expected a hex float, a JSON number, nan, inf or -inf"),
        ([True] * 12, "y has at position 0 True; expected a hex float, a JSON number, nan, inf or -inf"),
        ([0.5] * 11 + [None], "y has at position 11 None; expected a hex float, a JSON number, nan, inf or -inf"),
        (
            ["0x1.0000000000001p+0"] * 12,
            "y has at position 0 0x1.0000000000001p+0, which no float32 is; expected values rounded to float32",
        ),
        ("0x1p+0", "y is '0x1p+0'; expected a list of numbers, or an object with data"),
        ({"shape": "4x3", "data": []}, "y has shape '4x3'; expected a list of integers >= 0"),
        ({"dtype": "float32", "shape": [4, 3], "data": "!"}, "y has data that is not base64: "),
        ({"dtype": "float32", "shape": [1], "data": "AACAPw=="}, "y has shape [1]; expected [4, 3]"),
    ],
)
def test_what_is_no_array_is_a_failure_that_says_so(port: Callable[..., Port], given: Any, text: str) -> None:
    own = port("core")
    own.answers["core/rank-2-axis-1"]["ranks"][0]["y"] = given
    (failure,) = own.judged().failures
    assert failure.case == "core/rank-2-axis-1"
    assert failure.clauses == ("BN-NORM-1", "BN-SHAPE-2")
    assert failure.text.startswith(text)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (7, "it is 7; expected an object with one of error, ranks, refused, unsupported"),
        ({"ranks": [], "refused": ""}, "it is {'ranks': [], 'refused': ''}; expected an object with one of"),
        ({"ranks": []}, "ranks is 0; expected a list of 1 objects"),
        ({"ranks": [3]}, "ranks is 1; expected a list of 1 objects"),
        ({"ranks": [{"Y": []}]}, "there is no such output; expected some of y, "),
        ({"ranks": [{"state": []}]}, "it is []; expected an object of arrays"),
    ],
)
def test_what_is_no_result_is_a_failure_that_says_so(port: Callable[..., Port], given: Any, text: str) -> None:
    own = port("jvp")
    own.answers["jvp/drawn-0"] = given
    (failure,) = own.judged().failures
    assert failure.text.startswith(text)
    assert list(failure.clauses) == own.vectors.cases["jvp/drawn-0"]["clauses"]


def test_a_case_that_does_not_exist_is_a_failure(port: Callable[..., Port]) -> None:
    own = port("jvp")
    own.answers["jvp/drawn-99"] = {"unsupported": ""}
    (failure,) = own.judged().failures
    assert (failure.case, failure.text) == ("jvp/drawn-99", "there is no such case in these vectors")


# float32 arithmetic ----------------------------------------------------------------------------------------


def in_float32(case: dict[str, Any], *, one_pass: bool = False) -> dict[str, Any]:
    """y and statistics of a plain float32 batch as a device without float64 finds them; nothing of it is bnspec's."""
    config, inputs, f = case["config"], case["inputs"], np.float32
    x = inputs["ranks"][0]["x"]
    if not set(case["profiles"]) <= {"core", "grad"} or x["dtype"] != "float32" or 0 in x["shape"]:
        return {"unsupported": "not a plain batch"}

    def held(array: dict[str, Any]) -> np.ndarray:
        return np.asarray([unhexed(v) for v in array["data"]], f).reshape(array["shape"])

    raw = np.moveaxis(held(x), config["axis"], -1)
    flat = raw.reshape(-1, raw.shape[-1])
    n = f(len(flat))
    with np.errstate(all="ignore"):
        if one_pass:
            hi, low = flat.sum(axis=0, dtype=f) / n, np.zeros(flat.shape[1], f)
            var = (flat * flat).sum(axis=0, dtype=f) / n - hi * hi
        else:
            top = flat.max(axis=0)
            hi = top + (flat - top).sum(axis=0, dtype=f) / n
            low = (flat - hi).sum(axis=0, dtype=f) / n
            var = (((flat - hi) - low) ** 2).sum(axis=0, dtype=f) / n
        gamma = held(inputs["gamma"]) if "gamma" in inputs else f(1)
        beta = held(inputs["beta"]) if "beta" in inputs else f(0)
        scale = gamma * (f(1) / np.sqrt(var + f(config["epsilon"])))
        y, mean = (flat - hi) * scale + (beta - low * scale), hi + low
    y = np.moveaxis(y.reshape(raw.shape), -1, config["axis"])
    outputs = {"y": y, "mean": mean[None], "var": var[None]}
    return {"ranks": [{k: [hexed(float(u)) for u in np.asarray(v, f).ravel()] for k, v in outputs.items()}]}


def test_float32_arithmetic_passes_by_its_own_bounds_and_by_no_others(port: Callable[..., Port]) -> None:
    own = port("core", "hard")
    own.answers = {name: in_float32(case) for name, case in own.vectors.cases.items()}
    verdict = own.judged("float32")
    assert verdict.failures == []
    assert sum("ranks" in answer for answer in own.answers.values()) > 100
    assert {verdict.clauses[c].outcome for c in ("BN-NORM-1", "BN-NORM-3", "BN-MOM-8", "BN-MOM-5")} == {"passed"}
    wide = own.judged("float64")
    assert {"BN-NORM-1", "BN-MOM-3"} <= {c for f in wide.failures for c in f.clauses}
    results = Results("port", "1", "float32", False, own.answers)
    asked = verify(own.vectors, results, "float64").failures
    assert [(f.case, f.what) for f in asked] == [(f.case, f.what) for f in wide.failures]


def test_one_pass_in_float32_fails_where_it_cancels(port: Callable[..., Port]) -> None:
    own = port("core", "hard")
    own.answers = {name: in_float32(case, one_pass=True) for name, case in own.vectors.cases.items()}
    found = own.judged("float32").failures
    assert {"BN-NORM-1", "BN-NORM-3", "BN-MOM-8", "BN-NORM-4"} <= {c for f in found for c in f.clauses}
    assert {"core/far-1e4", "hard/mean-over-std-1e4", "core/law-shift-4096"} <= {f.case for f in found}


def test_float64_input_has_one_set_of_bounds(port: Callable[..., Port]) -> None:
    own = port("grad")
    case = own.vectors.cases["grad/float64"]
    assert case["inputs"]["ranks"][0]["x"]["dtype"] == "float64"
    assert all("bounds_float32" not in output for output in case["outputs"][0].values())
    assert [f.case for f in own.judged("float32").failures] == []
    own.put("grad/float64", "dx", 0, float(np.float32(own.get("grad/float64", "dx", 0))))
    assert [f.case for f in own.judged("float32").failures] == ["grad/float64"]


# Files and the command -------------------------------------------------------------------------------------


def saved(path: Path, answers: dict[str, Any], **more: Any) -> Path:
    head = {"format": "bnspec-results/1", "name": "port", "version": "1", "arithmetic": "float64"}
    path.write_text(json.dumps(head | {"results": answers} | more))
    return path


def test_the_command_runs_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, verdict = tmp_path / "vectors", tmp_path / "verdict.json"
    assert call("export", folder, "--profile", "grad,jvp") == 0
    assert call("run", "bnspec_conformance.subjects.own.backends:numpy", folder, "-o", tmp_path / "numpy.json") == 0
    answers = json.loads((tmp_path / "numpy.json").read_text())["results"]
    assert f"{len(answers)} cases: {len(answers)} answered, 0 refused, 0 unsupported" in capsys.readouterr().out
    assert call("verify", folder, tmp_path / "numpy.json", "--json", verdict) == 0
    out = capsys.readouterr().out
    assert re.search(r"BN-GRAD-4 +passed +20 +0\.[0-9]+ +0\.5[0-9]+ +jvp/", out)
    assert f"{len(answers)} cases: 0 failed, {len(answers)} passed, 0 untested, 0 not supported" in out
    assert json.loads(verdict.read_text())["passed"] is True
    for name in ("grad/drawn-0", "grad/drawn-1"):
        answers[name]["ranks"][0]["dx"]["data"][0] = "0x0p+0"
    assert call("verify", folder, saved(tmp_path / "bad.json", answers), "--json", verdict, "--failures", "1") == 1
    out = capsys.readouterr().out
    assert "FAILED grad/drawn-0  dx  [BN-GRAD-1]" in out
    assert "  worst at  [0, 0" in out
    assert "... and 1 more failures" in out
    failures = json.loads(verdict.read_text())["failures"]
    assert [(f["case"], f["got"]) for f in failures] == [("grad/drawn-0", "0x0p+0"), ("grad/drawn-1", "0x0p+0")]
    assert call("verify", folder, saved(tmp_path / "none.json", {})) == 1
    assert "Nothing was looked at" in capsys.readouterr().out


def test_a_result_file_keeps_to_its_schema(tmp_path: Path, numpy_answers: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / "results.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    some = {k: v for k, v in numpy_answers["results"].items() if k.split("/")[0] in ("running", "refused", "jvp")}
    jsonschema.validate(numpy_answers | {"results": some}, schema)
    values: list[Any] = [{"ranks": [{"Y": []}]}, {"ranks": [{"y": "a"}], "refused": ""}, {"ranks": [{"y": ["0.5"]}]}]
    for value in values:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(numpy_answers | {"results": {"core/x": value}}, schema)


def test_results_may_be_a_folder(tmp_path: Path, port: Callable[..., Port]) -> None:
    own = port("jvp")
    answers, names = own.answers, sorted(own.answers)
    saved(tmp_path / "a.json", {k: answers[k] for k in names[:9]})
    saved(tmp_path / "b.json", {k: answers[k] for k in names[9:]})
    assert set(verify(own.vectors, read_results(tmp_path)).cases.values()) == {"passed"}
    saved(tmp_path / "c.json", {names[0]: answers[names[0]]})
    with pytest.raises(BadFile, match=f"c.json has {names[0]!r} once more; expected each case in one file"):
        read_results(tmp_path)
    saved(tmp_path / "c.json", {}, name="other")
    with pytest.raises(BadFile, match=r"has name 'other' and .* 'port'; expected the results of one port"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"format":\n "bnspec-results/1",,}', "is no JSON at line 2, column 21: "),
        ("[]", "is list; expected an object with format 'bnspec-results/1'"),
        ("{}", "has format None; expected 'bnspec-results/1'"),
        ('{"format": "bnspec-results/1", "name": 3}', "has name 3; expected a text"),
        ('{"format": "bnspec-results/1", "nmae": "a"}', "has 'nmae'; expected only format, name, "),
        (
            '{"format": "bnspec-results/1", "name": "a", "version": "1", "arithmetic": null}',
            'has arithmetic None; expected "float64" or "twofold" or "float32".',
        ),
        (
            '{"format": "bnspec-results/1", "name": "a", "version": "1", "arithmetic": "float32"}',
            "has results that are ",
        ),
        ('{"results": {"a": 1, "a": 2}}', "has two entries 'a' in one object; expected one"),
        ("\xff", "is not UTF-8 at byte 0"),
    ],
)
def test_a_broken_file_is_an_error_with_its_place(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], text: str, error: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="latin-1")
    assert call("verify", folder, path) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"{path} ")
    assert error in message
    assert call("verify", folder, tmp_path / "missing.json") == 2
    assert "missing.json cannot be read: No such file or directory." in capsys.readouterr().err


def test_changed_vectors_are_refused(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "jvp.json"
    path.write_text(path.read_text().replace("0x1.", "0x1.0", 1))
    assert call("verify", tmp_path / "copy", tmp_path / "any.json") == 2
    assert f"{path} is not what was exported; expected SHA-256" in capsys.readouterr().err
    (tmp_path / "copy" / "index.json").write_text('{"format": "bnspec-vectors/2"}')
    assert call("verify", tmp_path / "copy", tmp_path / "any.json") == 2
    assert "has format 'bnspec-vectors/2'; expected 'bnspec-vectors/1'. Export it anew." in capsys.readouterr().err


# The document ----------------------------------------------------------------------------------------------


def test_the_case_in_the_document_is_the_one_that_is_exported(vectors: Vectors) -> None:
    case, relation, results = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL))
    assert case == vectors.cases["core/spec-example"]
    assert relation in vectors.cases["core/exact-n3-reordered"]["relations"]
    verdict = verify(vectors, Results("port", "1", results["arithmetic"], False, results["results"]))
    assert verdict.failures == []
    assert verdict.cases["core/spec-example"] == verdict.cases["refused/epsilon-negative"] == "passed"
    assert verdict.cases["mask/samples"] == "not supported"


@pytest.mark.pages
def test_the_document_names_every_file_flag_and_form() -> None:
    for family in FAMILIES:
        assert f"`{family}.json`" in DOCS
    schema = json.loads((SCHEMAS / "vectors.schema.json").read_text())
    for flag in schema["$defs"]["case"]["properties"]["flags"]["items"]["enum"]:
        assert f"`{flag}`" in DOCS


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_comparison_in_the_document_is_that_of_the_suite(tmp_path: Path) -> None:
    (source,) = re.findall(r"```c\n(.*?)```", DOCS, re.DOTALL)
    main = """
#include <stdio.h>
int main(void) {
    double g, e, b, o; int s;
    while (scanf("%la %la %la %la %d", &g, &e, &b, &o, &s) == 5) printf("%d\\n", right(g, e, b, o, s));
    return 0;
}
"""
    (tmp_path / "right.c").write_text(source + main)
    subprocess.run(["cc", "-o", str(tmp_path / "right"), str(tmp_path / "right.c"), "-lm"], check=True)
    over = {"float32": "0x1.ffffffp+127", "float16": "65520", "bfloat16": "0x1.ffp+127", "float64": "inf"}
    some = [
        0.0,
        1.0,
        1.5,
        -1.5,
        65504.0,
        65519.0,
        65536.0,
        3e38,
        -3.3895e38,
        3.5e38,
        1e300,
        math.nan,
        math.inf,
        -math.inf,
    ]
    rows = [
        (got, want, bound, dtype, statistic)
        for dtype in over
        for statistic in (0, 1)
        for bound in (0.0, 0.5, 40.0, math.inf)
        for want in some
        for got in some
    ]
    lines = [f"{hexed(g)} {hexed(w)} {hexed(b)} {over[d]} {s}" for g, w, b, d, s in rows]
    run = subprocess.run([str(tmp_path / "right")], input="\n".join(lines), capture_output=True, text=True, check=True)
    for row, said in zip(rows, run.stdout.split(), strict=True):
        got, want, bound, dtype, statistic = row
        wrong = violations(  # type: ignore[misc]
            *(np.asarray([v]) for v in (got, want, bound)), dtype_named(dtype), any_nonfinite=bool(statistic)
        )
        assert bool(int(said)) is not bool(wrong[0]), row
