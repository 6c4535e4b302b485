"""The suite proves that it can fail: its assertions, its coverage of the clauses, and its command."""

import ast
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from suite_command import command as run

import bnspec
import bnspec_conformance
from bnspec._clauses import clauses as specification
from bnspec_conformance import Case, Outcome, RankInputs, RankOutcome, exact, find_subject
from bnspec_conformance.run.engine import checks
from bnspec_conformance.subjects import SubjectError
from bnspec_conformance.trials.script import script
from bnspec_conformance.trials.trial import Trial
from bnspec_conformance.trials.violations.violation import Violation

SUITE = Path(bnspec_conformance.__file__).parent


# Coverage -------------------------------------------------------------------------------------------------


@pytest.mark.pages
def test_every_clause_is_proved_by_a_check_and_every_check_names_existing_clauses() -> None:
    proofs = checks()
    assert sorted(set(specification()) - set(proofs)) == []
    assert sorted(set(proofs) - set(specification())) == []


@pytest.mark.pages
def test_every_check_names_a_clause() -> None:
    for path in SUITE.glob("checks/**/test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names = [
                    d.func.id for d in node.decorator_list if isinstance(d, ast.Call) and isinstance(d.func, ast.Name)
                ]
                assert names == ["clauses", "explore"], f"{path.name}::{node.name}"


def test_no_check_holds_a_literal_tolerance() -> None:
    for path in SUITE.glob("checks/**/test_*.py"):
        text = path.read_text()
        assert not re.search(r"\b[ra]tol\b|allclose|isclose|approx\(", text), path.name


# Assertions -----------------------------------------------------------------------------------------------


def a_case() -> Case:
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    x = np.asarray([[1.0, 2.0], [3.0, 5.0]], "float32")
    return Case(config=config, ranks=(RankInputs(x),), gamma=np.ones(2, "float32"), beta=np.zeros(2, "float32"))


def trial() -> Trial:
    return Trial(find_subject("numpy"), ("BN-NORM-1",))


def test_agree_accepts_the_right_answer_and_refuses_a_neighbour() -> None:
    case, t = a_case(), trial()
    good = t.agree(case, "y", "mean", "var").ranks[0]
    assert good.y is not None
    y = good.y.copy()
    y[1, 0] = np.nextafter(np.nextafter(y[1, 0], np.float32(9)), np.float32(9))
    with pytest.raises(Violation) as caught:
        t.agree(case, "y", outcome=Outcome((RankOutcome(y=y),)))
    assert caught.value.details["index"] == (1, 0)
    assert caught.value.details["error_ulp"] > caught.value.details["bound_ulp"]


@pytest.mark.parametrize(
    "spoil",
    [lambda y: y[:1], lambda y: np.where(y > 0, np.nan, y), lambda y: np.where(y > 0, np.inf, y), np.zeros_like],
)
def test_agree_refuses_other_shapes_and_values_that_are_not_finite(spoil: object) -> None:
    case, t = a_case(), trial()
    y = t.run(case).ranks[0].y
    with pytest.raises(Violation, match="BN-NORM-1"):
        t.agree(case, "y", outcome=Outcome((RankOutcome(y=spoil(y)),)))


def test_same_compares_bits_but_not_the_sign_of_zero() -> None:
    t = trial()
    t.same(np.asarray([0.0, np.nan]), np.asarray([-0.0, np.nan]), "v", None)
    for other in (np.asarray([np.nextafter(0.0, 1.0), np.nan]), np.asarray([0.0, 1.0]), np.asarray([0.0])):
        with pytest.raises(Violation):
            t.same(np.asarray([0.0, np.nan]), other, "v", None)
    with pytest.raises(Violation):
        t.same({"a": np.zeros(1)}, {"b": np.zeros(1)}, "v", None)


def test_refuses_wants_the_type_the_clause_and_the_form() -> None:
    t = trial()
    t.refuses(lambda: a_case().config.__class__(axis=1, epsilon=-1.0, decay=0.9, correction=0), ValueError, "BN-NORM-1")
    for call, kind in ((lambda: None, ValueError), (lambda: int("x"), ValueError), (lambda: [][1], ValueError)):
        with pytest.raises(Violation):
            t.refuses(call, kind, "BN-NORM-1")


def test_the_script_is_short_and_shows_the_failure_again() -> None:
    case = a_case()
    code = script("numpy", case, "y", 0)
    assert len(code.splitlines()) <= 15
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    want = exact(case).ranks[0].y
    assert want is not None
    assert str(want) in done.stdout


# Subjects and the command ---------------------------------------------------------------------------------


def test_unknown_subjects_are_named() -> None:
    with pytest.raises(SubjectError, match=r"expected one of .*numpy"):
        find_subject("nosuch")
    with pytest.raises(SubjectError, match="cannot be had"):
        find_subject("nosuch:thing")


@pytest.mark.parametrize(
    ("subject", "clause", "status"),
    [("right", "BN-RUN-1", 0), ("one_pass", "BN-MOM-8", 1), ("forgetful", "BN-RUN-1", 1), ("forgetful", "BN-MOM-2", 0)],
)
def test_exit_status_says_whether_a_clause_is_broken(tmp_path: Path, subject: str, clause: str, status: int) -> None:
    done = run("run", f"wrong_subjects:{subject}", "--clause", clause, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["clauses"][clause]["verdict"] == ("failed" if status else "passed")
    if status:
        violation = next(c["violation"] for c in result["checks"] if c["outcome"] == "failed")
        assert violation["subject"] == f"wrong_subjects:{subject}"
        assert "to reproduce it, run:" in done.stdout
        assert "ulp, bound" in done.stdout


def test_what_a_subject_does_not_return_is_not_supported_rather_than_passed(tmp_path: Path) -> None:
    words = ("run", "wrong_subjects:silent", "--clause", "BN-GRAD-4", "-k", "test_jvp")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1  # nothing that was asked for was looked at
    assert "1 clause not supported (--all lists them):\n   1  it returns no ydot\n" in done.stdout
    assert "not supported: it returns no ydot" in " ".join(run(*words, "--all", cwd=tmp_path).stdout.split())


def test_one_seed_gives_one_run(tmp_path: Path) -> None:
    worst = []
    for seed in ("1", "1", "2"):
        run(
            "run",
            "numpy",
            "--clause",
            "BN-NORM-1",
            "--max-examples",
            "5",
            "--seed",
            seed,
            "--json",
            "o.json",
            cwd=tmp_path,
        )
        worst.append(json.loads((tmp_path / "o.json").read_text())["clauses"]["BN-NORM-1"]["worst"])
    assert worst[0] == worst[1] != worst[2]


def test_a_hostile_folder_changes_nothing_and_nothing_is_left_there(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('read')\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    done = run("run", "numpy", "--clause", "BN-GRP-1", "--max-examples", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1 of {len(specification())} clauses looked at: 1 passed" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "bnspec_conformance",
        "run",
        "numpy",
        "--clause",
        "BN-GRP-1",
        "--max-examples",
        "2",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=terminal, stderr=terminal, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(terminal)
        seen = b""
        while True:
            try:
                chunk = os.read(controller, 65536)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
    os.close(controller)
    assert process.returncode == 0
    assert "━".encode() in seen


@pytest.mark.parametrize(
    "arguments", [["run", "nosuch"], ["run", "numpy", "--clause", "BN-NO"], ["explain", "BN-NO-1"]]
)
def test_what_does_not_exist_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr


def test_list_and_explain_name_the_checks(tmp_path: Path) -> None:
    listing = run("list", cwd=tmp_path)
    assert listing.returncode == 0
    assert all(clause in listing.stdout for clause in specification())
    page = run("explain", "BN-RUN", cwd=tmp_path)
    assert "## Running statistics" in page.stdout
    page = run("explain", "bn-run-3", cwd=tmp_path)
    clause = specification()["BN-RUN-3"]
    assert page.stdout.startswith(f"BN-RUN-3 ({clause.level}; {', '.join(clause.profiles)})\n\n{clause.text}\n\n")
    path, line = re.findall(r"`bnspec-conformance explain BN-RUN` prints: (.*), line (\d+)\.", page.stdout)[0]
    assert Path(path).read_text().splitlines()[int(line) - 1].startswith("- **BN-RUN-3**")
    assert "## Running" not in page.stdout
    told = page.stdout.split("BN-RUN-3 is proved by ", 1)[1]
    assert "test_running::test_exponential" in told
