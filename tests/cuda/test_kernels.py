"""CUDA kernels without a device: the same bits in every order of threads, and sanitizers that find planted faults."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import device_program
import pytest
from installed_here import installed
from mpi_jobs import COMPILED

pytestmark = pytest.mark.skipif(not installed("cupy"), reason="`make test-cuda` runs it, once")

SUPPORT = Path(__file__).parents[1] / "support"


def test_a_call_has_the_members_of_the_source() -> None:
    from bnspec_backends.cuda.launching import FIELDS

    body = re.search(r"struct Call \{(.*?)\n\};", device_program.SOURCE, re.DOTALL)
    assert body is not None
    kinds = {"i64": "q", "double": "d"}
    members = re.findall(r"^  (?:const )?(\w+)(\*?) (\w+);", body[1], re.MULTILINE)
    assert tuple((name, "P" if pointer else kinds[kind]) for kind, pointer, name in members) == FIELDS


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize("order", [0, 1, 7])
def test_bits_do_not_depend_on_the_order_of_threads(order: int) -> None:
    """They are also those of an NVIDIA H200, on which the same cases were run (docs/devices)."""
    paths = os.pathsep.join(filter(None, [COMPILED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | COMPILED | {"PYTHONPATH": paths, "EMULATED_ORDER": str(order)}
    command = [sys.executable, str(SUPPORT / "cuda_bits.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    stored = json.loads((Path(__file__).parent / "bits.json").read_text(encoding="utf-8"))
    found = json.loads(done.stdout)
    assert {name for name in stored if found.get(name) != stored[name]} == set()
    assert found.keys() == stored.keys()


needs_sanitizers = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("setarch")), reason="needs g++ and setarch"
)
KERNELS = ("moments", "normalize", "grad_sums", "grad_input")


@needs_sanitizers
@pytest.mark.parametrize("walk", device_program.SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_kernels_are_clean(kernel: str, walk: str, sanitizer: str, tmp_path: Path) -> None:
    found = device_program.run(kernel, device_program.SIZES[walk], tmp_path, sanitizer, order=3)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("done")


#: What is left out of the source, and the sanitizer that sees it.
PLANTED: dict[str, tuple[str, str, str]] = {
    "fence before counting": (
        "thread",
        "  __threadfence();\n  __syncthreads();\n  if (!threadIdx.x) {\n    *flag",
        "  __syncthreads();\n  if (!threadIdx.x) {\n    *flag",
    ),
    "fence behind counting": ("thread", "      __threadfence();\n      *counter = 0;", "      *counter = 0;"),
    "barrier before counting": (
        "thread",
        "  __threadfence();\n  __syncthreads();\n  if (!threadIdx.x) {\n    *flag",
        "  __threadfence();\n  if (!threadIdx.x) {\n    *flag",
    ),
    "barrier behind counting": (
        "thread",
        "  __syncthreads();\n  return *flag != 0;",
        "  return *flag != 0;",
    ),
    "barrier of the tree": ("thread", "    __syncthreads();\n  }\n  a = slots", "  }\n  a = slots"),
    "barrier behind the tree": ("thread", "  b = more[t - p];\n  __syncthreads();", "  b = more[t - p];"),
    "barrier behind the parts": ("thread", "  __syncthreads();\n  by_channel<4>", "  by_channel<4>"),
    "alignment of shared memory": ("address,undefined", "(u32*)(slots + 4 * blockDim.x)", "(u32*)((char*)slots + 1)"),
}


@needs_sanitizers
@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_found(fault: str, tmp_path: Path) -> None:
    sanitizer, there, planted = PLANTED[fault]
    assert device_program.SOURCE.count(there) >= 1
    source = device_program.SOURCE.replace(there, planted)
    found = [
        device_program.run("moments", sizes, tmp_path, sanitizer, source=source)
        for sizes in device_program.SIZES.values()
    ]
    assert any("Sanitizer" in each.stderr or "runtime error" in each.stderr for each in found)


@needs_sanitizers
def test_too_little_shared_memory_is_found(tmp_path: Path) -> None:
    found = device_program.run("moments", device_program.SIZES["runs"], tmp_path, "address,undefined", less=64)
    assert "AddressSanitizer: heap-buffer-overflow" in found.stderr


def test_nvrtc_compiles_for_every_architecture() -> None:
    """Registers and spills of each architecture are in the machine code; here it must be made, and have its entry."""
    if not installed("cupy"):
        pytest.skip("CuPy is not installed")
    from bnspec_backends.cuda import compiling

    for architecture in ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120"):
        for what in (
            "moments<float, Runs<4>, 4, false>",
            "normalize<bfloat16, Columns<4>, 8, true>",
            "grad_sums<float16, float, Runs<4>, 4, true>",
            "grad_input<double, double, Columns<2>, 4, false>",
        ):
            code: Any = compiling._compiled(
                compiling.program(what), (f"-arch={architecture}", *compiling.OPTIONS), architecture
            )
            assert code.startswith(b"\x7fELF")
            assert b"entry" in code
