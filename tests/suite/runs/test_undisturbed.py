"""What lies about does not steer a run: variables of pytest, Hypothesis and Python, files of the folder, warnings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bnspec_conformance import Case, find_subject
from bnspec_conformance.run import environment
from bnspec_conformance.run.completeness import asked_for, problems
from bnspec_conformance.run.engine import all_checks
from bnspec_conformance.subjects import SubjectError, asked_as, complete, version_of
from bnspec_conformance.trials.record import Record

HERE = Path(__file__).parents[2] / "support" / "subjects"


def command(*arguments: str, cwd: Path, python: tuple[str, ...] = (), **variables: str) -> tuple[int, str, str]:
    """Status, output and standard error."""
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *python, "-m", "bnspec_conformance", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def verdict(found: tuple[int, str, str]) -> tuple[int, str]:
    """Status and output, without times."""
    return found[0], re.sub(r"\d+(\.\d+)? ?s\b|\(0:.*?\)|\b\d+\.\d\b", "", found[1])


RUN = (
    "run",
    "odd_port:Port",
    "--clause",
    "BN-NORM-1",
    "--clause",
    "BN-SHAPE-1",
    "--max-examples",
    "2",
    "--sizes",
    "none",
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, str]:
    """The run as it is where nothing lies about."""
    found = command(*RUN, cwd=tmp_path_factory.mktemp("plain"))
    assert found[0] == 1
    assert 'somebody\'s "port"' in found[1]
    return found


CONFTEST = "import sys\nsys.exit('conftest.py was read')\n"
PLUGIN = "import sys\nsys.exit('the plugin was loaded')\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTEST_ADDOPTS": "--collect-only"},
        {"PYTEST_ADDOPTS": "-k nothing -m nothing --deselect bnspec_conformance --ignore=/ -x --maxfail=1"},
        {"PYTEST_ADDOPTS": "-p no:bnspec_conformance.plugin -p no:terminal -n 2 --lf --sw -qq --tb=no"},
        {
            "PYTEST_ADDOPTS": "-W error --clause BN-NORM-2 --bnspec-no-shrink --max-examples=1",
            "PYTHONWARNINGS": "error",
        },
        {"PYTEST_ADDOPTS": "--no-such-option 'unclosed", "PYTEST_PLUGINS": "saboteur,no.such.module"},
        {"PYTEST_DEBUG": "1", "PYTEST_THEME": "nosuch", "PYTEST_THEME_MODE": "nosuch", "_ARGCOMPLETE": "1"},
        {
            "HYPOTHESIS_PROFILE": "nosuch",
            "HYPOTHESIS_EXPERIMENTAL_OBSERVABILITY": "1",
            "CI": "1",
            "PYTHONHASHSEED": "7",
        },
        {"PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"},
    ],
    ids=lambda variables: " ".join(variables),
)
def test_variables_and_files_of_the_folder_do_not_steer_a_run(
    variables: dict[str, str], plain: tuple[int, str, str], tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "saboteur.py").write_text(PLUGIN)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --collect-only -p saboteur\n")
    (tmp_path / "setup.cfg").write_text("[tool:pytest]\naddopts = --collect-only\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--collect-only'\n")
    below = tmp_path / "below"
    below.mkdir()
    for folder in (tmp_path, below):
        assert verdict(command(*RUN, cwd=folder, **variables)) == verdict(plain)
        if "PYTEST_PLUGINS" not in variables:
            break


def test_plugins_that_are_installed_are_not_loaded(plain: tuple[int, str, str], tmp_path: Path) -> None:
    metadata = tmp_path / "saboteur-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: saboteur\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\nsaboteur = saboteur\n[hypothesis]\nsaboteur = saboteur\n")
    (tmp_path / "saboteur.py").write_text(PLUGIN)
    assert verdict(command(*RUN, cwd=tmp_path)) == verdict(plain)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["python", "-OO", "-m", "bnspec_conformance", "run", "-O"], []),
        (["python", "-IOO", "-W", "error", "-Xdev", "-mbnspec_conformance"], ["-I", "-W", "error", "-Xdev"]),
        (["python", "-OBW", "-O", "-Om", "bnspec_conformance"], ["-BW", "-O"]),
        (["python", "-O", "/bin/bnspec-conformance", "run"], []),
    ],
)
def test_the_interpreter_starts_again_with_its_options_but_for_the_one(
    given: list[str], kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", given)
    assert environment._interpreter_options() == kept


def test_variables_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    before = dict(os.environ)
    with environment.undisturbed():
        assert "PYTEST_ADDOPTS" not in os.environ
        assert os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"
    assert dict(os.environ) == before


# What keeps a run from being whole --------------------------------------------------------------------------


def test_a_run_of_nothing_is_no_success(tmp_path: Path) -> None:
    status, said, _ = command("run", "odd_port:Right", "--clause", "BN-SYNC-1", cwd=tmp_path)
    assert status == 1
    assert "nothing was looked at" in said
    status, said, _ = command(
        "run", "odd_port:Right", "--clause", "BN-NORM-1", "--max-examples", "2", "--sizes", "none", cwd=tmp_path
    )
    assert status == 0, said


def test_what_was_asked_and_not_run_is_told() -> None:
    name = "test_counts::test_counter_saturates"
    asked = asked_for(["BN-RUN-13"], ["numpy"])
    assert asked == {(name, "numpy")}
    assert len(asked_for([], ["a", "b"])) == 2 * len(all_checks())
    passed = Record(name, ("BN-RUN-13",), "numpy", "passed", 0.0)
    assert problems(asked, [passed]) == []
    assert problems(asked, []) == [f"not finished: 1 of 1 checks were not run, {name} on numpy first"]


# Names, and what a subject does beside its work ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["odd_port:Port", "odd_port:wrong"])
def test_a_subject_may_warn_and_print(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    subject = find_subject(name)  # warnings are errors here
    assert (subject.name, asked_as(subject), version_of(subject)) == ('somebody\'s "port"', name, "odd 1.0")
    assert capsys.readouterr().out == ""


def test_a_subject_that_ends_the_interpreter_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="subject 'odd_port:leaves' cannot be had: SystemExit: 4"):
        find_subject("odd_port:leaves")
    status, _, said = command(*RUN, cwd=tmp_path, ODD_PORT="exit")
    assert status == 2
    assert "subject 'odd_port:Port' cannot be had: SystemExit: 3" in said
    assert "Traceback" not in said


def test_a_version_that_raises_is_no_reason_to_stop() -> None:
    class Torn:
        def supports(self, case: Case) -> str | None:
            return None

        def run(self, case: Case) -> None:
            return None

        def version(self) -> str:
            raise OSError("no \x1b[31mdriver")

    subject = complete(Torn(), "torn")
    assert version_of(subject) == r"unknown: version() raised OSError: no \x1b[31mdriver"


def test_the_script_finds_the_subject_by_what_it_was_asked_as(tmp_path: Path) -> None:
    _, said, _ = command(*RUN, "--no-shrink", cwd=tmp_path)
    block = said.partition("to reproduce it, run:\n")[2].split("\n\n")[0]
    code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    assert "find_subject('odd_port:Port')" in code
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-"],
        input=code,
        text=True,
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    assert "got\n[" in done.stdout
    assert "expected\n[" in done.stdout
