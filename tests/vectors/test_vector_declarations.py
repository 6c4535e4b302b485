"""Results of strangers: what they declare chooses the bounds, and what no port should write gets a plain answer."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnspec_conformance import find_subject
from bnspec_conformance.cases.case import Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.commands import vectors as command
from bnspec_conformance.subjects import SubjectError, complete
from bnspec_conformance.vectors.export import export
from bnspec_conformance.vectors.files import BadFile, Results, Vectors, read_results, read_vectors
from bnspec_conformance.vectors.hex import unhexed
from bnspec_conformance.vectors.judge import Judge, flattened
from bnspec_conformance.vectors.run import run_vectors
from bnspec_conformance.vectors.sets.wider import STRICT, wider_bounds
from bnspec_conformance.vectors.verify import verify

HEAD = {"format": "bnspec-results/1", "name": "port", "version": "1"}


class OneNumber:
    """Keeps the mean in one float32 number and folds it into y = x*scale + shift."""

    name, dialect, arithmetic, bound = "one-number", None, "float32", "plain"
    scope = Scope(profiles=frozenset({"core"}), dtypes=("float32",), world=1)

    def supports(self, case: Any) -> Any:
        return self.scope.reason(case)

    def run(self, case: Any) -> Any:
        x, axis = case.ranks[0].x, case.config.axis % case.ranks[0].x.ndim
        axes = tuple(a for a in range(x.ndim) if a != axis)
        wide = np.moveaxis(x, axis, -1)
        mean = np.mean(x, axis=axes, dtype="float32") if x.size else np.zeros(case.channels, "float32")
        var = np.mean(np.square(wide - mean), axis=tuple(range(x.ndim - 1))) if x.size else np.zeros_like(mean)
        scale = np.float32(1) / np.sqrt(var + np.float32(case.config.epsilon))
        scale = scale if case.gamma is None else scale * case.gamma.astype("float32")
        shift = -mean * scale if case.beta is None else case.beta.astype("float32") - mean * scale
        return Outcome((RankOutcome(y=np.moveaxis(wide * scale + shift, -1, axis).astype(x.dtype)),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vectors")
    export(made, ("core", "hard"))
    return made


@pytest.fixture(scope="module")
def vectors(folder: Path) -> Vectors:
    return read_vectors(folder)


@pytest.fixture(scope="module")
def answers(vectors: Vectors) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        return run_vectors(complete(OneNumber(), "one-number"), vectors)


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    options = parser.parse_args(["vectors", *map(str, arguments)])
    return int(options.call(options))


def results(answers: dict[str, Any], **declared: Any) -> Results:
    return Results("port", "1", **({"arithmetic": "float32", "flushes": False} | declared), results=answers["results"])


# --- what is declared -------------------------------------------------------------------------------------------------


def test_a_results_file_holds_what_the_subject_declares(answers: dict[str, Any]) -> None:
    assert (answers["arithmetic"], answers["bound"], answers["flushes_subnormals"]) == ("float32", "plain", False)


def test_the_plain_bound_widens_what_follows_from_the_mean_and_nothing_else(vectors: Any, answers: Any) -> None:
    strict = verify(vectors, results(answers))
    plain = verify(vectors, results(answers, bound="plain"))
    assert (strict.bound, plain.bound) == ("strict", "plain")
    assert strict.clauses["BN-NORM-1"].outcome == strict.clauses["BN-NORM-4"].outcome == "failed"
    assert plain.clauses["BN-NORM-1"].outcome == plain.clauses["BN-NORM-4"].outcome == "passed"
    assert plain.clauses["BN-NORM-5"].outcome == strict.clauses["BN-NORM-5"].outcome == "failed"  # to the bit
    assert plain.clauses["BN-NORM-5"].cases == strict.clauses["BN-NORM-5"].cases
    off = {f.case for f in plain.failures}
    assert off < {f.case for f in strict.failures}
    assert verify(vectors, results(answers, bound="plain"), bound="strict").cases == strict.cases


def test_a_plain_bound_is_no_licence(vectors: Vectors, answers: dict[str, Any]) -> None:
    spoilt = json.loads(json.dumps(answers))
    data = spoilt["results"]["core/spec-example"]["ranks"][0]["y"]["data"]
    data[0] = (unhexed(data[0]) * (1 + 1e-4)).hex()
    found = verify(vectors, results(spoilt, bound="plain")).failures
    assert "core/spec-example" in {f.case for f in found if f.clauses == ("BN-NORM-1",)}


def test_wider_bounds_are_those_of_the_files_where_nothing_is_declared(vectors: Vectors) -> None:
    looked = 0
    for case in vectors.cases.values():
        if case["expect"] == "refused" or case["id"].startswith("hard/"):
            continue
        for arithmetic, key in (("float64", "bounds"), ("float32", "bounds_float32")):
            for own, outputs in zip(
                wider_bounds(case, arithmetic, plain=False, flushes=False), case["outputs"], strict=True
            ):
                for name, want in outputs.items():
                    listed = [unhexed(v) for v in want.get(key, ())]
                    if key in want and any(listed) and STRICT.isdisjoint(want["clauses"]):
                        assert own[name].ravel().tolist() == listed, (case["id"], name)
                        looked += 1
    assert looked > 50


def test_no_declaration_widens_a_bound_that_counts_roundoffs_or_is_zero(vectors: Vectors) -> None:
    judges = [Judge("float32", flushes, bound) for flushes, bound in ((False, "strict"), (True, "plain"))]
    found = {"counted": 0, "zero": 0, "other": 0}
    for name in ("hard/mean-over-std-1e4", "hard/constant", "core/constant-thirds", "core/far-1e4", "core/exact-n3"):
        case = vectors.cases[name]
        for output, want in flattened(case["outputs"][0]).items():
            strict, wide = (judge.bounds(case, 0, output, want) for judge in judges)
            kind = "counted" if not STRICT.isdisjoint(want["clauses"]) else "other" if np.any(strict) else "zero"
            assert np.array_equal(strict, wide) == (kind != "other"), (name, output)
            found[kind] += 1
    assert min(found.values()) > 0, found


def test_flushed_numbers_may_be_missing_on_the_way(vectors: Vectors) -> None:
    (case,) = (c for c in vectors.cases.values() if c["id"] == "core/subnormal")
    kept, flushed = (wider_bounds(case, "float32", plain=False, flushes=f)[0]["var"] for f in (False, True))
    assert np.all(flushed >= kept)
    assert np.any(flushed > kept)


def test_the_projects_own_port_of_torch_passes_in_both(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "torch.json"
    assert call("run", "bnspec_conformance.subjects.frameworks.torch.torch_nn:layer", folder, "-o", path) == 0
    call("verify", folder, path, "--json", tmp_path / "verdict.json")
    assert "judged by the plain bound for float32 arithmetic" in capsys.readouterr().out
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["subject"] | {"version": ""} == {
        "name": "torch-nn", "version": "", "arithmetic": "float32", "evaluation": {}, "bound": "plain",
        "flushes_subnormals": False,
    }  # fmt: skip
    for clause in ("BN-NORM-1", "BN-NORM-4"):
        assert verdict["clauses"][clause]["outcome"] == "passed"
    call("verify", folder, path, "--bound", "strict", "--json", tmp_path / "verdict.json")
    assert "judged by the strict bound for float32 arithmetic" in capsys.readouterr().out
    assert json.loads((tmp_path / "verdict.json").read_text())["clauses"]["BN-NORM-1"]["outcome"] == "failed"


def test_what_is_not_declared_is_judged_strictly(tmp_path: Path, vectors: Vectors, answers: dict[str, Any]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(HEAD | {"results": answers["results"]}))
    read = read_results(path)
    assert (read.arithmetic, read.bound, read.flushes) == ("float64", "strict", False)
    assert verify(vectors, read).clauses["BN-NORM-1"].outcome == "failed"


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("bound", "loose", 'has bound \'loose\'; expected "strict" or "plain".'),
        ("bound", "Plain", 'has bound \'Plain\'; expected "strict" or "plain".'),
        ("bound", ["plain"], "has bound ['plain']; expected"),
        ("bound", {"plain": 1}, "has bound {'plain': 1}; expected"),
        ("bound", None, "has bound None; expected"),
        ("bound", True, "has bound True; expected"),
        ("bound", "x" * 10_000, "has bound 'xxxx"),
        ("bound", "\x1b[2J", "has bound '\\x1b[2J'; expected"),
        ("arithmetic", "float16", 'has arithmetic \'float16\'; expected "float64" or "twofold" or "float32".'),
        ("arithmetic", 32, "has arithmetic 32; expected"),
        ("flushes_subnormals", 1, "has flushes_subnormals 1; expected true or false."),
        ("flushes_subnormals", "yes", "has flushes_subnormals 'yes'; expected true or false."),
        ("bounds", "plain", "has 'bounds'; expected only format, name, version, arithmetic, bound, "),
        ("tolerance", 1e30, "has 'tolerance'; expected only "),
    ],
)
def test_a_wrong_declaration_is_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], field: str, value: Any, text: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(HEAD | {"results": {}, field: value}))
    assert call("verify", folder, path) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path} {text}")
    assert len(error) < 400
    assert error.count("\n") == 1


@pytest.mark.parametrize("field", ["arithmetic", "bound", "flushes"])
def test_a_subject_that_declares_nonsense_is_not_run(vectors: Vectors, field: str) -> None:
    odd = complete(OneNumber(), "odd")
    setattr(odd, field, "anything")
    with pytest.raises(SubjectError, match=r"subject 'one-number' declares .*'anything'; expected "):
        run_vectors(odd, vectors)


# --- what a stranger may write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "+NAN", "nan(0x7ff8000000000)", "-nan(ind)", "NAN()"])
def test_ways_to_write_nan(text: str) -> None:
    assert np.isnan(unhexed(text))


@pytest.mark.parametrize("text", ["1.#INF", "1.#QNAN", "∞", "--inf", "nan(", "nan(0x)1", "", "x", "infinite", "1e5"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError):
        unhexed(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 900 + "1" + "}" * 900,
        json.dumps(HEAD)[:-1]
        + ', "results": {"core/spec-example": {"ranks": [{"y": '
        + "[" * 400
        + "]" * 400
        + "}]}}}",
        json.dumps(HEAD)[:-1] + ', "results": {"core/spec-example": {"refused": ' + "[" * 700 + "]" * 700 + "}}}",
    ],
)
def test_nesting_without_end(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    assert call("verify", folder, path) == 2
    assert capsys.readouterr().err == f"{path} is nested too deeply to be a results file.\n"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"ranks": [{"y": {"shape": [10**29, 1], "data": ["0x0p+0"]}}]}, "y has shape [1000"),
        (
            {"ranks": [{"y": {"dtype": "float32", "shape": [10**29, 1], "data": ""}}]},
            "y has 0 bytes; expected more than",
        ),
        ({"ranks": [{"y": {"dtype": "float32", "shape": [0, 10**29], "data": ""}}]}, "which no array can have"),
        ({"ranks": [{"y": {"dtype": "float32", "shape": [2**62, 4], "data": ""}}]}, "y has 0 bytes; expected "),
        ({"ranks": [{"y": [10**400] * 4}]}, "y has at position 0 1000"),
        ({"ranks": [{"y": [1e300] * 4}]}, "4 of 4 elements are off"),
        ({"ranks": [{"y": [True] * 4}]}, "y has at position 0 True; expected"),
        ({"ranks": [{"y": [{}] * 4}]}, "y has at position 0 {}; expected"),
        ({"ranks": [{"z": []}]}, "there is no such output"),
        ({"ranks": [{"state": {"median": [1]}}]}, "there is no such output; expected some of mean, var"),
        ({"ranks": [{"\x1b[31m": []}]}, "there is no such output"),
        ({"ranks": []}, "ranks is 0; expected a list of 1 objects"),
        ({"ranks": 3}, "ranks is 3; expected"),
        ({}, "it is {}; expected an object with one of error"),
    ],
)
def test_a_stranger_gets_a_plain_answer(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], given: Any, text: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(HEAD | {"results": {"core/spec-example": given}}))
    assert call("verify", folder, path) == 1
    out = capsys.readouterr().out
    assert text in " ".join(out.split())
    assert "\x1b[31m" not in out


@pytest.mark.parametrize("bare", ["NaN", "Infinity", "-Infinity"])
def test_bare_words_of_other_writers_are_numbers(tmp_path: Path, vectors: Vectors, bare: str) -> None:
    path = tmp_path / "r.json"
    text = json.dumps(HEAD | {"results": {"core/spec-example": {"ranks": [{"y": ["HERE", -0.5, -0.5, 1.5]}]}}})
    path.write_text(text.replace('"HERE"', bare))
    (failure,) = verify(vectors, read_results(path)).failures
    assert (failure.what, failure.index) == ("y", [0, 0])
    assert str(failure.got) == {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[bare]


def test_a_number_beyond_what_python_reads(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(HEAD)[:-1] + ', "results": {"a": ' + "9" * 5000 + "}}")
    with pytest.raises(BadFile, match="has a number that is out of all range"):
        read_results(path)


def test_a_file_without_end_is_not_read() -> None:
    with pytest.raises(BadFile, match=r"/dev/zero is a device; expected a file\."):
        read_results(Path("/dev/zero"))


@pytest.mark.parametrize(
    "change",
    [
        {"files": None}, {"files": [3]}, {"files": [{}]}, {"files": [{"file": "core.json"}]}, {"seed": "0"},
        {"spec": []},
        {"files": [{"file": "../core.json", "sha256": "0"}]}, {"files": [{"file": "/etc/passwd", "sha256": "0"}]},
    ],
)  # fmt: skip
def test_a_damaged_index_is_named(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    index = json.loads((folder / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index | change))
    assert call("verify", tmp_path, tmp_path / "none.json") == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'index.json'} ")


def test_control_characters_of_a_name_are_shown_and_not_sent(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    odd = {"core/\x1b[2Jx": {"refused": "\x07"}, "core/spec-example": {"refused": "\x1b[31m"}}
    path.write_text(json.dumps(HEAD | {"name": "p\x1b]0;owned\x07", "results": odd}))
    assert call("verify", folder, path) == 1
    out = capsys.readouterr().out
    assert "p\\x1b]0;owned\\x07 1, on the vectors of" in out
    assert not set(out) & {"\x1b", "\x07"}


def test_an_option_that_a_subject_lacks_is_no_refusal_that_it_owes(tmp_path: Path) -> None:
    export(tmp_path, ("refused",))
    own = dataclasses.replace(OneNumber.scope, profiles=frozenset({"core", "running"}), options={
        "nonfinite": ("propagate",)})  # fmt: skip
    subject = complete(OneNumber(), "one-number")
    subject.scope = own
    answered = run_vectors(subject, read_vectors(tmp_path))["results"]
    told = {n: a.get("unsupported") for n, a in answered.items() if n.startswith("refused/not-finite")}
    assert told
    assert set(told.values()) == {"it has no nonfinite='raise'"}


def test_the_numpy_subject_declares_the_strict_bound(vectors: Vectors) -> None:
    some = Vectors(vectors.index, {"core/spec-example": vectors.cases["core/spec-example"]})
    found = run_vectors(find_subject("bnspec_conformance.subjects.own.backends:numpy"), some)
    assert (found["arithmetic"], found["bound"], found["flushes_subnormals"]) == ("float64", "strict", False)


def test_verify_ends_without_a_traceback_in_a_process_of_its_own(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b'{"format": "bnspec-results/1", "name": "\\ud800", "version": "1", "results": {"\\ud800": 1}}')
    done = subprocess.run(
        [sys.executable, "-m", "bnspec_conformance", "vectors", "verify", str(folder), str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "\\ud800" in done.stdout
