"""new-port: the file it writes runs at once, fails legibly, and passes once docs/porting.md has been followed."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnspec_conformance import cli, find_subject
from bnspec_conformance.commands import new_port
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.run.restricted import only_profiles
from bnspec_conformance.run.waivers.file import load_waivers
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.budget import Budget

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "porting.md").read_text()
COMPILER = shlex.split(os.environ.get("CC", "cc"))


def write(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    new_port.register(parser.add_subparsers())
    options = parser.parse_args(["new-port", *arguments])
    return int(options.call(options))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def failures(subject: Subject, checks: list[str], examples: int) -> dict[str, str]:
    """Text of every failure of these checks; none of them may be left out."""
    budget = Budget(examples, 0, shrink=False)
    records = [attempt(all_checks()[name], subject, budget) for name in checks]
    assert {r.outcome for r in records} <= {"passed", "failed"}, [(r.check, r.reason) for r in records]
    return {r.check: r.reason for r in records if r.outcome == "failed"}


FORWARD = ["test_normalize::test_formula", "test_moments::test_definitions", "test_normalize::test_constant_channel"]
UPDATE = ["test_running::test_exponential", "test_running::test_single_value", "test_running::test_extreme_weights"]
INFER = ["test_inference::test_formula", "test_inference::test_far_mean"]
BACKWARD = ["test_gradients::test_vjp", "test_gradients::test_hard_families", "test_inference::test_derivatives"]


# The Python module ------------------------------------------------------------------------------------------


def test_the_file_runs_at_once_and_every_failure_says_what_to_write(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write("fresh_port") == 0
    said = capsys.readouterr().out
    assert said.startswith("wrote fresh_port.py; next:\n")
    assert "bnspec-conformance run fresh_port:port --clause BN-NORM-1" in said
    subject = find_subject("fresh_port:port")
    assert subject.version() == "fresh_port 0"
    assert subject.scope.profiles == {"core", "statistics", "running", "inference", "grad"}
    found = failures(subject, FORWARD + UPDATE + INFER + BACKWARD, 2)
    for name in FORWARD + UPDATE + INFER + BACKWARD:
        function = "infer" if "inference" in name else "forward"
        assert f"NotImplementedError: write {function}() in fresh_port.py; SPEC.md, page" in found[name]


@pytest.mark.parametrize("more", [[], ["--from", "layer"]])
def test_no_check_passes_before_anything_is_written(here: Path, more: list[str]) -> None:
    name = f"empty_port_{len(more)}"
    assert write(name, *more) == 0
    subject = find_subject(f"{name}:port")
    for check in all_checks().values():
        if any(subject.scope.lacks(clause) for clause in check.clauses) or check.name.startswith("test_update"):
            continue  # not about this port, or about layers only
        record = attempt(check, subject, Budget(2, 0, shrink=False))
        assert record.outcome in ("failed", "not supported"), record
        assert record.outcome == "not supported" or "write " in record.reason, record.reason


@pytest.mark.parametrize("library", ["none", "layer", "torch", "keras", "flax"])
def test_the_file_passes_the_linter(here: Path, library: str) -> None:
    assert write("tidy_port", *([] if library == "none" else ["--from", library])) == 0
    if shutil.which("ruff", path=os.path.dirname(sys.executable)) is None:
        pytest.skip("ruff is not installed")
    for action in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *action, "--config", str(ROOT / "pyproject.toml"), "tidy_port.py"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def followed(text: str, steps: int) -> str:
    """The file with the functions of docs/porting.md in it, as far as that step."""
    blocks = [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if b.startswith("def ")]
    assert [re.findall(r"^def (\w+)", b, re.MULTILINE)[0] for b in blocks] == ["forward", "update", "infer", "backward"]
    for block in blocks[:steps]:
        name = re.findall(r"^def (\w+)", block)[0]
        start = text.index(f"def {name}(")
        text = text[:start] + block.rstrip() + text[text.index("\n\n\n", start) :]
    (options,) = re.findall(r"^    options=\{\"averaging.*$", PAGE, re.MULTILINE)
    assert "    options={},\n" in text
    return text.replace("    options={},", options).replace("from typing", "import math\nfrom typing", 1)


@pytest.mark.parametrize(
    ("steps", "profiles", "checks"),
    [
        (1, ["statistics"], FORWARD),
        (2, ["statistics", "running"], FORWARD + UPDATE),
        (3, ["inference"], INFER),
        (4, ["statistics", "running", "inference", "grad"], FORWARD + UPDATE + INFER + BACKWARD),
    ],
)
def test_whoever_follows_the_page_gets_a_port_that_passes(
    here: Path, steps: int, profiles: list[str], checks: list[str]
) -> None:
    name = f"followed_{steps}"
    assert write(name) == 0
    path = here / f"{name}.py"
    path.write_text(followed(path.read_text(), steps))
    assert failures(only_profiles(find_subject(f"{name}:port"), profiles), checks, 5) == {}


def test_the_first_attempt_on_the_page_fails_as_the_page_shows(here: Path) -> None:
    assert write("my_port") == 0
    path = here / "my_port.py"
    (attempted,) = [
        b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if b.startswith("    x = np.moveaxis")
    ]
    hint = re.findall(r"^    raise unwritten\(\"forward\".*\n", path.read_text(), re.MULTILINE)
    path.write_text(path.read_text().replace(hint[0], attempted))
    subject = only_profiles(find_subject("my_port:port"), ["statistics"])
    record = attempt(all_checks()["test_normalize::test_formula"], subject, Budget(None, 0))
    (shown,) = re.findall(r"^BN-NORM-1: my_port:port: y is off\n.*?bound [0-9.]+ ulp", PAGE, re.MULTILINE | re.DOTALL)
    assert record.reason.startswith(shown)
    for name in ("test_normalize::test_constant_channel", "test_normalize::test_hard_families"):
        assert attempt(all_checks()[name], subject, Budget(30, 0, shrink=False)).outcome == "failed"


# The C program ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason=f"no C compiler: {COMPILER[0]} is not there")
def test_the_c_file_compiles_and_says_what_to_write(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write("c_port", "--language", "c") == 0
    (command,) = re.findall(r"^  cc (.*)$", capsys.readouterr().out, re.MULTILINE)
    subprocess.run([*COMPILER, *shlex.split(command), "-Wextra", "-pedantic", "-Werror"], check=True)
    subject = find_subject("exec:./c_port")
    assert subject.version() == "c_port 0"
    found = failures(subject, FORWARD + INFER + BACKWARD, 2)
    for name in FORWARD + INFER + BACKWARD:
        function = "running" if "inference" in name else "moments"
        assert f"an error of its own: write {function}() in c_port.c; SPEC.md, page" in found[name]


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my-port"], "'my-port' cannot be imported; expected a Python identifier such as my_port."),
        (["class"], "'class' cannot be imported; expected a Python identifier"),
        (["../port"], "'../port' cannot be imported"),
        (["json"], "'json' would hide the module of that name; choose another, such as json_port."),
        (["numpy"], "'numpy' would hide the module of that name"),
        (["port", "--directory", "nowhere"], "there is no folder nowhere; make it first."),
        (["taken"], "taken.py exists; choose another name, or remove it."),
        (["taken", "--language", "c"], "taken.c exists; choose another name, or remove it."),
        (["taken", "--language", "python-pipe"], "taken.py exists; choose another name, or remove it."),
        (["taken", "--from", "torch"], "taken.py exists; choose another name, or remove it."),
        (
            ["torch", "--from", "torch"],
            "'torch' would hide the module of that name; choose another, such as torch_port.",
        ),
    ],
)
def test_what_will_not_do_is_refused_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    for suffix in ("py", "c"):
        (here / f"taken.{suffix}").write_text("mine\n")
    before = sorted(here.rglob("*"))
    assert write(*arguments) == 2
    assert capsys.readouterr().err.startswith(said)
    assert sorted(here.rglob("*")) == before
    assert (here / "taken.py").read_text() == (here / "taken.c").read_text() == "mine\n"


def test_a_language_and_a_library_are_not_named_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        write("my_port", "--language", "c", "--from", "torch")
    assert "argument --from: not allowed with argument --language" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_whoever_starts_in_python_hears_of_layers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write("my_port") == 0
    assert "`new-port NAME --from layer`" in capsys.readouterr().out


def test_a_folder_can_be_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "ports").mkdir()
    assert write("my_port", "--directory", "ports") == 0
    assert capsys.readouterr().out.startswith(f"wrote {Path('ports/my_port.py')}; next, in ports:")
    assert (here / "ports" / "my_port.py").exists()


# The page ---------------------------------------------------------------------------------------------------


def test_the_waiver_on_the_page_can_be_read(here: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (here / "known.toml").write_text(text)
    (waiver,) = load_waivers(here / "known.toml")
    assert (waiver.clause, waiver.subject, waiver.dtype) == ("BN-NORM-3", "my_port:port", "float32")


def test_every_command_on_the_page_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parsed(Exception):
        pass

    def stop(parser: argparse.ArgumentParser, *given: object) -> argparse.Namespace:
        parse(parser, *given)
        raise Parsed

    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    commands = re.findall(r"^\$ bnspec-conformance (.*)$", PAGE, re.MULTILINE)
    commands += re.findall(r"`bnspec-conformance ([^`]*)`", PAGE)
    assert len(commands) > 15
    for command in commands:
        with pytest.raises(Parsed):
            cli.main(shlex.split(command))
