"""As much of `cupy.cuda.nvrtc` as is asked for: what it compiles is for the emulated device, and g++ compiles it."""

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
                          [](void* c) { entry(*(const Call*)c); }, (void*)call);
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
    source = f'#include "{_DEVICE / "emulator.h"}"\n{one["source"]}\n{_FOOTER}'
    flags = os.environ.get("EMULATED_FLAGS", "-O1").split()
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-mfma", "-mf16c", "-w", *flags, "-x", "c++", "-"]
    folder = Path(os.environ.get("EMULATED_CUBINS") or _DEVICE.parents[3] / ".cache" / "emulated")
    folder.mkdir(parents=True, exist_ok=True)
    emulator = (_DEVICE / "emulator.h").read_text(encoding="utf-8")
    path = folder / (hashlib.sha256(repr((source, emulator, command)).encode()).hexdigest()[:32] + ".so")
    if not path.exists():
        own = path.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(own)], input=source, capture_output=True, text=True, check=False)
        one["log"] = done.stderr
        if done.returncode:
            raise NVRTCError("NVRTC_ERROR_COMPILATION (6)")
        own.replace(path)
    one["code"] = str(path).encode()


def getCUBIN(prog: int) -> bytes:  # noqa: N802
    """The path of the shared library: code of the emulated device."""
    return bytes(_programs[prog]["code"])


def getProgramLog(prog: int) -> str:  # noqa: N802
    return str(_programs[prog]["log"])


def destroyProgram(prog: int) -> None:  # noqa: N802
    _programs.pop(prog)
