"""CuPy: the suite runs on CUDA devices where there are some, and on emulated ones everywhere."""

import os
import subprocess
import sys

import pytest
from jobs import EMULATED

from bnspec_conformance.subjects import SubjectError, find_subject


def run(*arguments, **more):
    command = [sys.executable, "-m", "bnspec_conformance", "run", *arguments, "--max-examples", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("subject", ["cupy", "nccl"])
def test_conformance_on_the_device(subject):
    try:
        find_subject(subject)
    except SubjectError as reason:
        pytest.skip(str(reason))
    run(subject)


def test_conformance_on_an_emulated_device():
    """Every clause passes that has something to say about it: the backend waits for no values it does not need."""
    said = run("cupy", **EMULATED, OMP_NUM_THREADS="1")
    assert "104 of 104 clauses looked at: 101 passed, 3 not supported" in said
