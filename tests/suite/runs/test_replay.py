"""Running counterexamples again from their files, on the subject that failed and on others."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import bnspec
from bnspec_conformance import find_subject
from bnspec_conformance.cases.codecs.argument_codec import argument_from_json
from bnspec_conformance.cli import main
from bnspec_conformance.report import document, read_failures, write_failures, write_json
from bnspec_conformance.report.json_document import plain
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record

EXPONENTIAL = "test_running::test_exponential"
FORGETFUL = ("--subject", "wrong_subjects:forgetful")


def failed(check: str, subject: str) -> Record:
    record = attempt(all_checks()[check], find_subject(subject), Budget(4, 0))
    assert record.outcome == "failed", record
    return record


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """The failures of a subject that leaves its state as it was."""
    return [
        failed(EXPONENTIAL, "wrong_subjects:forgetful"),
        failed("test_running::test_extreme_weights", "wrong_subjects:forgetful"),
    ]


@pytest.fixture
def report(records: list[Record], tmp_path: Path) -> Path:
    content = document(
        records,
        {"wrong_subjects:forgetful": find_subject("wrong_subjects:forgetful")},
        seed=0,
        max_examples=4,
        seconds=1.0,
        command="bnspec-conformance run wrong_subjects:forgetful",
    )
    write_json(tmp_path / "report.json", content)
    (tmp_path / "failures").mkdir()
    write_failures(tmp_path / "failures", content, records)
    return tmp_path / "report.json"


def test_a_failure_file_fails_again_with_the_same_numbers(
    report: Path, records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    file = next((report.parent / "failures").glob("*test_exponential.json"))
    assert main(["replay", str(file), *FORGETFUL]) == 1
    out = capsys.readouterr().out
    violation: dict[str, Any] = records[0].violation or {}
    assert "[0] test_running::test_exponential (BN-RUN-1, BN-RUN-3), its counterexample" in out
    for part in (violation["problem"], float(violation["got"]).hex(), float(violation["expected"]).hex()):
        assert out.count(part) == 2  # before and now
    assert "now       wrong_subjects:forgetful: still failing" in out
    assert f"bound {violation['bound_ulp']:.4g} ulp" in out
    assert violation["script"].splitlines()[0] in out


def test_the_failures_of_a_report_pass_on_a_right_subject(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(report), "--subject", "numpy"]) == 0
    out = capsys.readouterr().out
    assert out.count("now       numpy: passing now") == 2
    assert re.search(r"the worst is state\.\w+, [0-9.e-]+ ulp off, bound [0-9.e-]+ ulp", out)
    assert "2 passing now" in out
    assert main(["replay", str(report), *FORGETFUL]) == 1
    assert "2 still failing" in capsys.readouterr().out


def test_one_of_several_is_chosen_by_name_and_by_number(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--check", "test_extreme_weights"], ["--index", "1"]):
        assert main(["replay", str(report), *FORGETFUL, *words]) == 1
        out = capsys.readouterr().out
        assert "test_running::test_extreme_weights" in out
        assert "test_exponential" not in out


def test_what_a_subject_does_not_support_is_said(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(report.read_text())
    case = content["checks"][0]["violation"]["drawn"]
    while case["kind"] in ("tuple", "list"):
        case = case["value"][0]
    case["value"]["ranks"] *= 2
    report.write_text(json.dumps(content))
    assert main(["replay", str(report), "--subject", "wrong_subjects:right", "--index", "0"]) == 0
    assert "now       wrong_subjects:right: not supported: it knows no ranks" in capsys.readouterr().out


def test_the_argument_comes_back_as_it_was(records: list[Record]) -> None:
    check = all_checks()[EXPONENTIAL]
    again = attempt(
        check,
        find_subject("wrong_subjects:forgetful"),
        Budget(),
        drawn=argument_from_json(records[0].violation["drawn"]),
    )
    assert again.violation is not None
    assert records[0].violation is not None
    assert plain(again.violation) == plain(records[0].violation)


def test_an_error_next_to_zero_is_told_as_it_is(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(report.read_text())
    content["checks"][0]["violation"] |= {"expected": 0.0, "error": 0.25, "bound": 0.125, "error_ulp": 1e44}
    report.write_text(json.dumps(content))
    assert main(["replay", str(report), "--subject", "numpy", "--index", "0"]) == 0
    assert "error     0.25, bound 0.125 (absolute: expected is next to 0)\n" in capsys.readouterr().out


def test_a_check_whose_argument_was_not_written_runs_whole_with_its_seed(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(report.read_text())
    content["checks"][0]["violation"]["drawn"] = None
    report.write_text(json.dumps(content))
    assert main(["replay", str(report), *FORGETFUL, "--index", "0"]) == 1
    out = capsys.readouterr().out
    assert "the whole check, with the recorded seed" in out
    assert out.count(content["checks"][0]["violation"]["case"]) == 1  # it finds the same case


def test_a_subject_of_bnspec_is_found_by_what_it_was_asked_as(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(report.read_text())
    content["subjects"][0]["asked"] = "numpy-specification"
    report.write_text(json.dumps(content))
    assert main(["replay", str(report), "--index", "0"]) == 0
    assert "passing now" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked",
    [
        "exec:touch {folder}/started",
        "exec:{folder}/program",
        "imported:Port",
        "bnspec_conformance.subjects.own.backends:numpy",
        "foreign",
        "./numpy",
        "nosuch",
        "",
        " exec:touch {folder}/started",
        "numpy\n",
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["report", "failure"])
def test_what_only_a_file_names_is_neither_started_nor_imported(
    asked: str, whole: bool, report: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = report.parent
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    asked = asked.format(folder=folder)
    (folder / "imported.py").write_text("open('started', 'w').close()\n")
    (folder / "program").write_text(f"#!/bin/sh\ntouch {folder}/started\n")
    (folder / "program").chmod(0o755)
    for name, module in (("foreign", "imported:Port"), ("bnspec", "imported:Port")):  # metadata is a file too
        metadata = folder / f"{name}-99.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
        (metadata / "entry_points.txt").write_text(f"[bnspec.subjects]\nforeign = {module}\n")
    file = report if whole else next((folder / "failures").iterdir())
    content = json.loads(file.read_text())
    (content["subjects"][0] if whole else content)["asked"] = asked
    file.write_text(json.dumps(content))
    assert main(["replay", str(file)]) == 2
    assert not (folder / "started").exists()
    said = capsys.readouterr().err
    assert f"the file names the subject {asked!r}, which runs only if you name it" in said
    assert f"--subject {shlex.quote(asked)}" in said
    if whole:
        main(["diff", str(file), str(file)])
        assert not (folder / "started").exists()


def test_another_version_is_said(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(report.read_text())
    content["bnspec"] = "0.0.1"
    report.write_text(json.dumps(content))
    main(["replay", str(report), *FORGETFUL, "--index", "0"])
    assert f"found with bnspec 0.0.1; this is {bnspec.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check", "test_no"], "has no failure of check 'test_no'; it has test_running::test_exponential"),
        (["--index", "2"], "--index is 2; expected 0 to 1"),
        (["--index", "-1"], "--index is -1; expected 0 to 1"),
        (["--subject", "nosuch"], "unknown subject 'nosuch'"),
    ],
)
def test_a_wrong_call_is_refused(report: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(report), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_file_without_failures_a_check_that_is_gone_and_broken_arguments_are_refused(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(report.read_text())
    text = json.dumps(content)
    report.write_text(text.replace(EXPONENTIAL, "test_running::test_gone"))
    assert main(["replay", str(report)]) == 2
    assert "this version of the suite has no check 'test_running::test_gone'" in capsys.readouterr().err
    report.write_text(json.dumps(content | {"checks": []}))
    assert main(["replay", str(report)]) == 2
    assert "has no failure to run again" in capsys.readouterr().err
    content["checks"][0]["violation"]["drawn"] = {"kind": "case", "value": {"config": 3}}
    report.write_text(json.dumps(content))
    assert main(["replay", str(report), *FORGETFUL, "--index", "0"]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"format": "bnspec-failure/1"}', '{"checks": 3}', "\x00", "[" * 100_000])
def test_a_broken_file_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.json").write_text(text)
    assert main(["replay", str(tmp_path / "f.json")]) == 2
    err = capsys.readouterr().err
    assert "f.json is no" in err
    assert "Traceback" not in err
    assert main(["replay", str(tmp_path / "no.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_failures_are_read_from_either_kind_of_file(report: Path) -> None:
    whole = read_failures(report)
    files = [read_failures(path) for path in sorted((report.parent / "failures").iterdir())]
    assert sorted(r.check for r in whole.records) == sorted(r.check for f in files for r in f.records)
    assert {(f.seed, f.max_examples, f.bnspec) for f in [whole, *files]} == {(0, 4, bnspec.__version__)}
    assert whole.asked == files[0].asked == {"wrong_subjects:forgetful": "wrong_subjects:forgetful"}
