"""As much of `cupy.cuda.nvrtc` as is asked for: what it compiles is for the emulated device, and g++ compiles it."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

_DEVICE = Path(__file__).parents[2] / "device"

#: What runs a kernel as the emulator wants it called.
_FOOTER = """
extern "C" unsigned long bytes_of_call() { return sizeof(Call); }
extern "C" const char* start(const unsigned* shape, unsigned long shared, unsigned order, const Call* call) {
  return emulator::launch({shape[0], shape[1], 1}, {shape[2], 1, 1}, shared, order,
                          [](const void* c) { entry(*(const Call*)c); }, call);
}
"""

_programs: dict[int, dict[str, Any]] = {}


class NVRTCError(RuntimeError):
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.libs.nvrtc"


def getVersion() -> tuple[int, int]:  # noqa: N802
    return 0, 0


def createProgram(src: str, name: str, headers: Any, include_names: Any) -> int:  # noqa: N802
    number = len(_programs) + 1
    _programs[number] = {"source": src, "log": ""}
    return number


def compileProgram(prog: int, options: Any) -> None:  # noqa: N802
    """Compile with what the options mean to g++: products and sums that do not fuse, subnormal numbers that stay."""
    for needed in ("-fmad=false", "-ftz=false"):
        assert needed in options, f"the emulated device computes as with {needed}"
    one = _programs[prog]
    source = f'#include "{_DEVICE / "cuda_words.h"}"\n{one["source"]}\n{_FOOTER}'
    try:
        one["code"] = str(_built(source, ".so", ["-shared", str(_runtime())])).encode()
    except subprocess.CalledProcessError as error:
        one["log"] = error.stderr
        raise NVRTCError("NVRTC_ERROR_COMPILATION (6)") from error


@functools.cache
def _runtime() -> Path:
    return _built((_DEVICE / "emulator.cpp").read_text(encoding="utf-8"), ".o", ["-c", f"-I{_DEVICE}"])


def _built(source: str, suffix: str, arguments: list[str]) -> Path:
    """A file that g++ makes of a source, kept by everything that it depends on."""
    flags = os.environ.get("EMULATED_FLAGS", "-O1").split()
    command = ["g++", "-std=c++17", "-fPIC", "-ffp-contract=off", "-mfma", "-mf16c", "-fno-math-errno", "-w", *flags, *arguments]
    headers = [path.read_text(encoding="utf-8") for path in sorted(_DEVICE.glob("*.h"))]
    folder = Path(os.environ.get("EMULATED_CUBINS") or _DEVICE.parents[3] / ".cache" / "emulated")
    path = folder / (hashlib.sha256(repr((source, headers, command)).encode()).hexdigest()[:32] + suffix)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}{suffix}")
        line = [*command, "-o", str(own), "-x", "c++", "-"]
        subprocess.run(line, input=source, capture_output=True, text=True, check=True)
        own.replace(path)
    return path


def getCUBIN(prog: int) -> bytes:  # noqa: N802
    """The path of the shared library: code of the emulated device."""
    return bytes(_programs[prog]["code"])


def getProgramLog(prog: int) -> str:  # noqa: N802
    return str(_programs[prog]["log"])


def destroyProgram(prog: int) -> None:  # noqa: N802
    _programs.pop(prog)
