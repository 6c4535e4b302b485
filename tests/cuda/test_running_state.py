"""The running state on CUDA devices: the specification's bits, and what is left to the specification."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installed_here import installed
from mpi_jobs import COMPILED

pytestmark = [
    pytest.mark.skipif(not installed("cupy"), reason="`make test-cuda` runs it, once"),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
]

PROGRAM = Path(__file__).parents[1] / "support" / "cuda_update.py"


def test_running_statistics_are_those_of_the_specification_to_the_bit() -> None:
    paths = os.pathsep.join(filter(None, [COMPILED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | COMPILED | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"differ": [], "served or left wrongly": []}
