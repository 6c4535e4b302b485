"""Accuracy of the CUDA kernels, beside exact rationals: every hard family, and random ones by a fixed seed."""

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

PROGRAM = Path(__file__).parents[1] / "support" / "cuda_accuracy.py"


def shares(act: str) -> dict[str, float]:
    """What an act of cuda_accuracy.py prints: errors as shares of what is allowed."""
    paths = os.pathsep.join(filter(None, [COMPILED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | COMPILED | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), act], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def outside(found: dict[str, float]) -> dict[str, float]:
    return {name: share for name, share in found.items() if not share <= 1}


def test_hard_families_lose_no_digit() -> None:
    """All 64 results, y and dx of 32 families, as long runs and as columns."""
    found = shares("hard")
    assert len(found) == 2 * 64
    assert outside(found) == {}


def test_random_hard_inputs_stay_within_the_bound() -> None:
    found = shares("stress")
    assert outside(found) == {}
    statistics = {name: share for name, share in found.items() if name.endswith(("mean", "var"))}
    assert max(statistics.values()) < 0.5, statistics  # sums of few elements come nearest, to a third


def test_deviations_in_float32_are_outside_of_the_bound() -> None:
    found = shares("planted")
    assert {"mean", "var"} <= outside(found).keys()
