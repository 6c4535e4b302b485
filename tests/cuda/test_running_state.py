"""The running state on CUDA devices: one launch, the specification's bits, and what is left to the specification."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from installed_here import installed
from mpi_jobs import COMPILED

pytestmark = [
    pytest.mark.skipif(not installed("cupy"), reason="`make test-cuda` runs it, once"),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
]

PROGRAM = Path(__file__).parents[1] / "support" / "cuda_update.py"


def act(name: str) -> Any:
    """What an act of cuda_update.py prints."""
    paths = os.pathsep.join(filter(None, [COMPILED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | COMPILED | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(PROGRAM), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_running_statistics_are_those_of_the_specification_to_the_bit() -> None:
    assert act("updates") == {"differ": [], "served or left wrongly": []}


def test_a_training_step_takes_five_launches() -> None:
    """Two forward, one for the state, two backward; one for inference, and no wait."""
    assert act("launches") == {"exponential": [2, 1, 2, 1, 0], "cumulative": [2, 1, 2, 1, 0]}
