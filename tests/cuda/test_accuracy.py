"""Accuracy of the CUDA kernels, beside exact rationals: every hard family, and random ones by a fixed seed."""

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

PROGRAM = Path(__file__).parents[1] / "support" / "cuda_accuracy.py"


#: What two float32 numbers stand for one in.
KERNELS = ["grad_input", "grad_sums", "moments", "normalize"]


def found_by(act: str, elements: str = "", **more: str) -> dict[str, Any]:
    """What an act of cuda_accuracy.py prints: errors as shares of what is allowed, and the kernels it took."""
    paths = os.pathsep.join(filter(None, [COMPILED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | COMPILED | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more
    command = [sys.executable, str(PROGRAM), act, elements]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def outside(found: dict[str, Any]) -> dict[str, float]:
    return {name: share for name, share in found["shares"].items() if not share <= 1}


TWOFOLD = {"BNSPEC_CUDA_ARITHMETIC": "twofold"}


def test_hard_families_lose_no_digit() -> None:
    """All 64 results, y and dx of 32 families, as long runs and as columns."""
    found = found_by("hard")
    assert len(found["shares"]) == 2 * 64
    assert (outside(found), found["twofold"]) == ({}, [])


def test_hard_families_lose_no_digit_in_two_float32() -> None:
    """The same with two float32 numbers for one, of any count."""
    found = found_by("hard", "1", **TWOFOLD)
    assert len(found["shares"]) == 2 * 64
    assert (outside(found), found["twofold"]) == ({}, KERNELS)


def test_hard_families_of_many_elements_stay_within_the_bound_in_two_float32() -> None:
    found = found_by("anew", **TWOFOLD)
    assert len(found["shares"]) == 2 * 64 + 2 * 32 * 6
    assert (outside(found), found["twofold"]) == ({}, KERNELS)


@pytest.mark.parametrize("arithmetic", ["wide", "twofold"])
def test_random_hard_inputs_stay_within_the_bound(arithmetic: str) -> None:
    found = found_by("stress", BNSPEC_CUDA_ARITHMETIC=arithmetic)
    assert outside(found) == {}
    assert found["twofold"] == (KERNELS if arithmetic == "twofold" else [])
    statistics = {name: share for name, share in found["shares"].items() if name.endswith(("mean", "var"))}
    assert max(statistics.values()) < 0.5, statistics  # sums of few elements come nearest


@pytest.mark.parametrize("arithmetic", ["wide", "twofold"])
def test_one_value_far_from_all_others_costs_no_digit_where_a_thread_begins(arithmetic: str) -> None:
    assert outside(found_by("first far", BNSPEC_CUDA_ARITHMETIC=arithmetic)) == {}


@pytest.mark.parametrize("arithmetic", ["wide", "twofold"])
def test_loops_in_float32_are_outside_of_the_bound(arithmetic: str) -> None:
    found = outside(found_by("planted", "1", BNSPEC_CUDA_ARITHMETIC=arithmetic))
    assert {"mean", "var"} <= found.keys() if arithmetic == "wide" else "var" in found


def test_the_device_decides_and_the_environment_before_it() -> None:
    """Devices whose float32 is more than 4 times as fast as their float64 take two float32 numbers."""
    for ratio, environment, twofold in (("4", "", []), ("32", "", KERNELS), ("32", "wide", [])):
        found = found_by("anew", EMULATED_PRECISION_RATIO=ratio, BNSPEC_CUDA_ARITHMETIC=environment)
        assert found["twofold"] == twofold
