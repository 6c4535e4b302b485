"""Operations of two launches on CUDA devices: how many they take, and that they equal the primitives that they join."""

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

PROGRAM = Path(__file__).parents[1] / "support" / "cuda_fused.py"


def act(name: str) -> Any:
    """What an act of cuda_fused.py prints."""
    paths = os.pathsep.join(filter(None, [COMPILED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | COMPILED | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(PROGRAM), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_step_with_a_mask_is_that_of_the_primitives() -> None:
    assert act("masked") == []


def test_a_training_step_takes_five_launches() -> None:
    """Two forward, one for the state, two backward; one for inference, and no wait. A mask may be copied first."""
    plain, cumulative, whole_mask, samples_mask = act("launches")
    assert plain == cumulative == [2, 1, 2, 1, 0]
    assert whole_mask == [2, 0, 2, 1, 0]
    assert samples_mask == [3, 0, 3, 1, 0]
