"""CuPy: the suite runs on CUDA devices where there are some, and on emulated ones everywhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from installed_here import installed
from mpi_jobs import COMPILED as EMULATED

from bnspec._clauses import clauses
from bnspec_conformance.subjects import SubjectError, find_subject


def run(*arguments: Any, **more: Any) -> Any:
    command = [sys.executable, "-m", "bnspec_conformance", "run", *arguments, "--max-examples", "3"]
    paths = os.pathsep.join(filter(None, [more.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | more | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs_a_device(subject: str = "cupy") -> None:
    try:
        find_subject(subject)
    except SubjectError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("subject", ["cupy", "nccl"])
def test_conformance_on_the_device(subject: str) -> None:
    needs_a_device(subject)
    run(subject)


def test_a_step_can_be_captured_and_replayed_on_the_device() -> None:
    needs_a_device()
    found = act("graphs", emulated=False)
    assert set(found.values()) == {True}, found


@pytest.mark.skipif(not installed("cupy"), reason="`make test-cuda` runs it, once")
def test_conformance_on_an_emulated_device() -> None:
    """Every clause passes that has something to say about it: the backend waits for no values it does not need."""
    said = run("cupy", **EMULATED, OMP_NUM_THREADS="1")
    number = len(clauses())
    found = re.search(
        rf"{number} of {number} clauses looked at: (?:(\d+) passed in part, )?(\d+) passed, 3 not supported", said
    )
    assert found is not None, said
    assert int(found[1] or 0) + int(found[2]) == number - 3
    assert int(found[1] or 0) <= 6, said  # parts that ask for what CuPy has not: gradients of its own, values at once


def act(name: str, *, emulated: bool = True) -> Any:
    """What an act of cupy_program.py prints."""
    paths = os.pathsep.join(filter(None, [EMULATED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "cupy_program.py"), name]
    environment = os.environ | (EMULATED | {"PYTHONPATH": paths} if emulated else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_step_waits_only_where_shapes_do_not_tell() -> None:
    """A step that waits cannot be captured in a graph."""
    found = act("waits")
    assert found.pop("nonfinite raise") == 1  # one flag
    assert found.pop("masked") == 1  # the count
    assert set(found.values()) == {0}, found


def test_counts_that_are_too_small_are_refused() -> None:
    found = act("refusals")
    for name in ("shape", "mask", "pooled"):
        assert "a batch with 1 value per channel (3 channels)" in found[name]
        assert "[BN-RUN-4]" in found[name]
    assert found["two"] == "accepted"
    assert found["pooled later"] == [3, 3, 3]


def test_what_no_kernel_serves_is_counted() -> None:
    found = act("left")
    assert found["compiled"] == {"served": {}, "empty": {"moments": 1, "normalize": 1}}
    assert found["specification"] == {"served": {}, "empty": {}}


@pytest.mark.parametrize("kernels", ["compiled", "specification"])
def test_the_command_says_which_kernels_serve_and_what_they_leave(kernels: str) -> None:
    environment = os.environ | EMULATED | {"BNSPEC_CUDA_KERNELS": kernels}
    environment["PYTHONPATH"] = os.pathsep.join([EMULATED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
    code = "import sys; from bnspec._cli import main; sys.exit(main(['backends']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("cupy "))
    assert line.split()[1:4] == ["ready", "0.0.0+emulated", kernels]
    left = "cupy: no kernel takes arrays without elements" in done.stdout
    assert left == (kernels == "compiled"), done.stdout


def test_arrays_decide_the_device() -> None:
    assert act("devices") == {"current": 0, "wrong": {}}
