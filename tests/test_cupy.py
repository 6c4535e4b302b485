"""CuPy: the suite runs on it where a CUDA device is; elsewhere this says why not."""

import subprocess
import sys

import pytest

from bnspec_conformance.subjects import SubjectError, find_subject


def test_conformance_on_the_device() -> None:
    try:
        find_subject("cupy")
    except SubjectError as reason:
        pytest.skip(str(reason))
    command = [sys.executable, "-m", "bnspec_conformance", "run", "cupy", "--max-examples", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
