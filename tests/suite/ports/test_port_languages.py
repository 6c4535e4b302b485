"""new-port in other languages than Python and C: each file runs at once, says what to write, and can be filled in."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from damaged_requests import damaged_requests
from filled_templates import PAGE, PORTS, filled, functions_of_the_page

from bnspec_conformance import cli, find_subject
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.budget import Budget

#: The checks that every one of these ports is asked.
CHECKS = [
    "test_gradients::test_hard_families",
    "test_gradients::test_vjp",
    "test_inference::test_derivatives",
    "test_inference::test_far_mean",
    "test_inference::test_formula",
    "test_moments::test_definitions",
    "test_normalize::test_absent_parameters",
    "test_normalize::test_constant_channel",
    "test_normalize::test_formula",
    "test_normalize::test_hard_families",
    "test_normalize::test_no_epsilon",
    "test_normalize::test_subnormal",
    "test_precision::test_arithmetic",
    "test_running::test_count_zero",
    "test_running::test_exponential",
    "test_running::test_extreme_weights",
    "test_running::test_single_value",
    "test_shapes::test_empty",
    "test_shapes::test_every_axis",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new_port(name: str, *arguments: str) -> None:
    assert cli.main(["new-port", name, *arguments]) == 0


def outcomes(subject: Subject, checks: list[str], examples: int) -> dict[str, tuple[str, str]]:
    """Return the outcome and the reason of each check; one that has passed has run cases."""
    budget = Budget(examples, 0, shrink=False)
    records = [attempt(all_checks()[name], subject, budget) for name in checks]
    assert all(record.examples > 0 for record in records if record.outcome == "passed")
    return {record.check: (record.outcome, record.reason) for record in records}


def conforms(subject: Subject) -> bool:
    """Return True, or fail with the reason of every check that has not passed."""
    wrong = {name: found for name, found in outcomes(subject, CHECKS, 6).items() if found[0] != "passed"}
    assert wrong == {}
    return True


def ask_in_vain(subject: Subject, file: str) -> None:
    """Every check fails, and says which function is to be written."""
    for name, (outcome, reason) in outcomes(subject, CHECKS, 2).items():
        function = "infer" if "inference" in name else "forward"
        assert outcome == "failed", name
        assert f"write {function}() in {file}; SPEC.md, page" in reason


def survives(command: list[str]) -> bool:
    """Return True after the program has answered each damaged request by one line, or fail."""
    lines = damaged_requests(500)
    given = "\n".join(lines).encode() + b"\n"
    done = subprocess.run(command, input=given, capture_output=True, check=True, timeout=60)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    kinds = [next(iter(answer)) for answer in answers]
    assert set(kinds) <= {"outcome", "unsupported", "refused", "error"}
    assert kinds.count("error") > 100
    return True


# Plain Python -----------------------------------------------------------------------------------------------

#: Python with the packages of this environment, and without any.
PYTHONS = {"NumPy": shlex.quote(sys.executable), "lists": shlex.quote(sys.executable) + " -I -S"}


@pytest.mark.parametrize("kind", PYTHONS)
def test_the_python_program_runs_at_once_and_says_what_to_write(
    here: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    new_port("pipe_port", "--language", "python-pipe")
    assert "bnspec-conformance run 'exec:python3 pipe_port.py' --clause BN-NORM-1" in capsys.readouterr().out
    subject = find_subject(f"exec:{PYTHONS[kind]} pipe_port.py")
    assert subject.version() == "pipe_port 0"
    ask_in_vain(subject, "pipe_port.py")


@pytest.mark.parametrize("kind", PYTHONS)
def test_the_python_program_conforms_once_its_functions_are_written(here: Path, kind: str) -> None:
    new_port("pipe_port", "--language", "python-pipe")
    lists = (PORTS / "functions_of_lists.py.txt").read_text(encoding="utf-8")
    filled(here / "pipe_port.py", functions_of_the_page() if kind == "NumPy" else lists)
    assert conforms(find_subject(f"exec:{PYTHONS[kind]} pipe_port.py"))
    assert survives([*shlex.split(PYTHONS[kind]), "pipe_port.py"])


def test_the_python_program_needs_no_newer_python_and_no_package(here: Path) -> None:
    new_port("pipe_port", "--language", "python-pipe")
    text = (here / "pipe_port.py").read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert set(names) - set(sys.stdlib_module_names) == {"numpy"}


# JavaScript -------------------------------------------------------------------------------------------------

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")


@needs_node
def test_the_javascript_file_runs_at_once_and_says_what_to_write(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_port("my_port", "--language", "javascript")
    assert "bnspec-conformance run 'exec:node my_port.mjs' --clause BN-NORM-1" in capsys.readouterr().out
    subject = find_subject("exec:node my_port.mjs")
    assert subject.version() == "my_port 0"
    ask_in_vain(subject, "my_port.mjs")
    (shown,) = re.findall(r"^BN-NORM-1: exec:node .*?\n.*?$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (_, said) = outcomes(subject, ["test_normalize::test_formula"], 2)["test_normalize::test_formula"]
    assert said.startswith(shown.replace("\n", " "))


@needs_node
def test_the_javascript_file_conforms_once_its_functions_are_written(here: Path) -> None:
    new_port("js_port", "--language", "javascript")
    filled(here / "js_port.mjs")
    assert conforms(find_subject("exec:node js_port.mjs"))
    assert survives(["node", "js_port.mjs"])


@needs_node
@pytest.mark.parametrize(
    ("line", "key", "said"),
    [
        ("", "error", "JSON"),
        ('{"op": "stop"}', "error", "op is stop; expected hello or run"),
        ('{"op": "run"}', "error", "undefined"),
        ('{"op": "run", "case": {"x": {"dtype": "float32", "shape": [2], "data": "AAA="}}}', "error", "x has 2 bytes"),
        ('{"op": "run", "case": {"x": {"dtype": "float16", "shape": [], "data": ""}}}', "unsupported", "no float16"),
    ],
)
def test_the_javascript_file_answers_what_is_no_request(here: Path, line: str, key: str, said: str) -> None:
    new_port("js_port", "--language", "javascript")
    given = line + '\n{"op": "hello", "protocol": 1}\n'
    done = subprocess.run(["node", "js_port.mjs"], input=given, capture_output=True, text=True, check=True, timeout=60)
    wrong, hello = map(json.loads, done.stdout.splitlines())
    assert said in wrong[key]
    assert hello["name"] == "js_port"


# Rust -------------------------------------------------------------------------------------------------------

needs_rustc = pytest.mark.skipif(shutil.which("rustc") is None, reason="there is no rustc")


def compiled(name: str, *flags: str) -> None:
    subprocess.run(["rustc", "--edition", "2021", "-O", "-D", "warnings", *flags, f"{name}.rs"], check=True)


@needs_rustc
def test_the_rust_file_compiles_and_says_what_to_write(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_port("rs_port", "--language", "rust")
    said = capsys.readouterr().out
    assert "  rustc --edition 2021 -O rs_port.rs\n  bnspec-conformance run exec:./rs_port --clause BN-NORM-1\n" in said
    compiled("rs_port")
    subject = find_subject("exec:./rs_port")
    assert subject.version() == "rs_port 0"
    ask_in_vain(subject, "rs_port.rs")


@needs_rustc
def test_the_rust_file_conforms_once_its_functions_are_written(here: Path) -> None:
    new_port("rs_port", "--language", "rust")
    filled(here / "rs_port.rs")
    compiled("rs_port")
    assert conforms(find_subject("exec:./rs_port"))
    assert survives(["./rs_port"])


@needs_rustc
def test_the_rust_file_answers_what_is_no_request(here: Path) -> None:
    new_port("rs_port", "--language", "rust")
    compiled("rs_port")
    x = '{"op": "run", "case": {"config": {}, "ranks": [{"x": {"dtype": %s, "shape": [2], "data": "%s"}}]}}'
    said = {
        "": "expected a value in the request",
        "{": 'expected " in the request',
        '{"op": "hello"': "expected , in the request",
        '{"op": "hello"} x': "expected one value on the line",
        '{"op": "hello': "the request ends within a string",
        "[" * 100: "the request has more than 32 levels",
        "[1, 2]": "the key op is missing",
        '{"op": "stop"}': "op is stop; expected hello or run",
        '{"op": "run"}': "the key case is missing",
        x % ('"float32"', "AAA="): "x has 2 bytes; expected 8",
        x % ('"float32"', "A-A="): "the data of x is no base64",
        x % ('"float16"', "AAAA"): "this port reads no float16",
    }
    given = "\n".join([*said, '{"op": "hello", "protocol": 1}', ""])
    done = subprocess.run(["./rs_port"], input=given, capture_output=True, text=True, check=True, timeout=60)
    *answers, hello = map(json.loads, done.stdout.splitlines())
    for answer, text in zip(answers, said.values(), strict=True):
        (found,) = answer.values()
        assert text in found
    assert hello["name"] == "rs_port"
