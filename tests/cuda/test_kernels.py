"""CUDA kernels without a device: the same bits in every order of threads, and sanitizers that find planted faults."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cubin
import device_program
import pytest
from installed_here import installed
from mpi_jobs import COMPILED

pytestmark = pytest.mark.skipif(not installed("cupy"), reason="`make test-cuda` runs it, once")

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.parametrize("struct", ["Call", "Update"])
def test_an_argument_has_the_members_of_the_source(struct: str) -> None:
    from bnspec_backends.cuda import launching

    body = re.search(rf"struct {struct} \{{(.*?)\n\}};", device_program.SOURCE, re.DOTALL)
    assert body is not None
    kinds = {"i64": "q", "double": "d"}
    members = re.findall(r"^  (?:const )?(\w+)(\*?) (\w+);", body[1], re.MULTILINE)
    found = tuple((name, "P" if pointer else kinds[kind]) for kind, pointer, name in members)
    assert found == getattr(launching, struct.upper()).fields


def test_the_source_has_no_generic_lambda() -> None:
    """NVRTC 13.5 takes one; NVRTC 13.0 takes it for a function of the host, and refuses the whole source."""
    assert not re.search(r"[(,]\s*(const )?auto\b", device_program.SOURCE)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize("arithmetic", ["wide", "twofold"])
def test_bits_do_not_depend_on_the_order_of_threads(arithmetic: str, order: int) -> None:
    """Those of float64 are also those of an NVIDIA H200, on which the same cases were run (docs/devices)."""
    paths = os.pathsep.join(filter(None, [COMPILED["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | COMPILED | {"PYTHONPATH": paths, "EMULATED_ORDER": str(order)}
    command = [sys.executable, str(SUPPORT / "cuda_bits.py"), arithmetic]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    name = {"wide": "bits.json", "twofold": "bits_twofold.json"}[arithmetic]
    stored = json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))
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


@needs_sanitizers
@pytest.mark.parametrize("walk", device_program.SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_clean_in_two_float32(kernel: str, walk: str, tmp_path: Path) -> None:
    """What threads share is the same in every arithmetic."""
    sizes = device_program.SIZES[walk]
    found = device_program.run(kernel, sizes, tmp_path, "address,undefined", order=3, arithmetic="Twofold")
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
    "barrier behind the parts": ("thread", "  __syncthreads();\n  u32* flag", "  u32* flag"),
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


#: Kernels as they are launched, with the most registers that a thread may need, the bytes that it may spill, and the
#: loads that they must have. Of sums without a mask four blocks are on a multiprocessor: 65536/(4*256) registers for a
#: thread. Moments may spill eight numbers then.
NEEDS: dict[str, tuple[int, int, str]] = {
    "moments<float, Runs<4>, 4, false>": (64, 64, "ld.global.v4.f32"),
    "moments<float, Columns<4>, 4, false>": (64, 64, "ld.global.v4.f32"),
    "moments<bfloat16, Columns<4>, 8, false>": (64, 64, "ld.global.v4.u16"),
    "normalize<bfloat16, Columns<4>, 8, true>": (80, 0, "ld.global.v4.u16"),
    "normalize<bfloat16, Runs<8>, 4, false>": (64, 0, "ld.global.v4.u32"),
    "grad_sums<bfloat16, bfloat16, Runs<8>, 4, false>": (64, 0, "ld.global.v4.u32"),
    "grad_sums<float16, float, Runs<4>, 4, true>": (80, 0, "ld.global.v4.f32"),
    "grad_input<float, float, Columns<4>, 4, true>": (168, 0, "ld.global.v4.f32"),
    "grad_input<double, double, Columns<2>, 4, false>": (96, 0, "ld.global.v2.f64"),
    "update": (40, 0, "ld.global.f64"),
    "moments<float, Runs<4>, 4, false, Twofold>": (64, 64, "ld.global.v4.f32"),
    "moments<bfloat16, Columns<4>, 8, false, Twofold>": (64, 64, "ld.global.v4.u16"),
    "grad_sums<float, float, Columns<4>, 4, false, Twofold>": (64, 64, "ld.global.v4.f32"),
    "normalize<float, Runs<4>, 4, false, Twofold>": (72, 0, "ld.global.v4.f32"),
    "grad_input<float, float, Columns<4>, 4, false, Twofold>": (184, 0, "ld.global.v4.f32"),
}
needs_nvrtc = pytest.mark.skipif(not installed("cupy"), reason="CuPy is not installed")


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"])
def test_kernels_compile_within_their_limits(architecture: str) -> None:
    from bnspec_backends.cuda import compiling

    for what in list(NEEDS)[:: 1 if architecture == "sm_90" else 2]:
        options = (f"-arch={architecture}", *compiling.OPTIONS)
        code = compiling._compiled(compiling.program(what), options, architecture)
        assert b"entry" in code
        registers, spilled = cubin.needs(code)
        assert (registers <= NEEDS[what][0], spilled <= NEEDS[what][1]) == (True, True), (what, registers, spilled)


@needs_nvrtc
@pytest.mark.parametrize("what", NEEDS)
def test_neighbours_are_loaded_at_once(what: str) -> None:
    from cupy.cuda import nvrtc

    from bnspec_backends.cuda import compiling

    made = nvrtc.createProgram(compiling.program(what), "batch_norm.cu", (), ())
    nvrtc.compileProgram(made, ("-arch=compute_90", *compiling.OPTIONS))
    assert NEEDS[what][2] in nvrtc.getPTX(made).decode()
