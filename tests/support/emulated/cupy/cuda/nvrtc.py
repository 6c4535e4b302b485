"""As much of `cupy.cuda.nvrtc` as is asked for: what it compiles is for the emulated device, and g++ compiles it."""

import functools
import hashlib
import itertools
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_DEVICE = Path(__file__).parents[2] / "device"

#: Products and sums do not fuse, as with -fmad=false; subnormal numbers stay, as with -ftz=false.
_COMMAND = ["g++", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-w",
            *(["-mfma", "-mf16c"] if platform.machine() == "x86_64" else []),
            *os.environ.get("EMULATED_FLAGS", "-O1").split()]  # fmt: skip

#: What runs a kernel as the emulator wants it called.
_FOOTER = """
extern "C" unsigned long bytes_of_call() { return sizeof(Argument); }
extern "C" const char* start(const unsigned* shape, unsigned long shared, unsigned order, const Argument* call) {
  return emulator::launch({shape[0], shape[1], 1}, {shape[2], 1, 1}, shared, order,
                          [](const void* c) { entry(*(const Argument*)c); }, call);
}
"""

_folder = tempfile.TemporaryDirectory()  # goes with the process
_programs: dict[int, dict[str, Any]] = {}
_numbers = itertools.count(1)


class NVRTCError(RuntimeError):
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.libs.nvrtc"


@functools.cache
def getVersion() -> tuple[int, int]:  # noqa: N802
    """The second number is another for another emulator: what is compiled holds some of it."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(_DEVICE.iterdir())]
    return 0, int(hashlib.sha256(repr((texts, _COMMAND, _FOOTER)).encode()).hexdigest()[:8], 16)


def createProgram(src: str, name: str, headers: Any, include_names: Any) -> int:  # noqa: N802
    number = next(_numbers)  # never that of another program: threads make and destroy them at once
    _programs[number] = {"source": src, "log": ""}
    return number


def compileProgram(prog: int, options: Any) -> None:  # noqa: N802
    for needed in ("-fmad=false", "-ftz=false"):
        assert needed in options, f"the emulated device computes as with {needed}"
    one = _programs[prog]
    source = f'#include "{_DEVICE / "cuda_words.h"}"\n{one["source"]}\n{_FOOTER}'
    try:
        one["code"] = _built(source, "-shared", str(_runtime()))
    except subprocess.CalledProcessError as error:
        one["log"] = error.stderr
        raise NVRTCError("NVRTC_ERROR_COMPILATION (6)") from error


@functools.cache
def _runtime() -> Path:
    """The emulator itself, for each kernel to be linked with."""
    path = Path(_folder.name) / "emulator.o"
    path.write_bytes(_built((_DEVICE / "emulator.cpp").read_text(encoding="utf-8"), "-c", f"-I{_DEVICE}"))
    return path


def _built(source: str, *arguments: str) -> bytes:
    """What g++ makes of a source."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made"
        line = [*_COMMAND, "-o", str(path), "-x", "c++", "-", "-x", "none", *arguments]
        subprocess.run(line, input=source, capture_output=True, text=True, check=True)
        return path.read_bytes()


def getCUBIN(prog: int) -> bytes:  # noqa: N802
    """A shared library: code of the emulated device."""
    return bytes(_programs[prog]["code"])


def getProgramLog(prog: int) -> str:  # noqa: N802
    return str(_programs[prog]["log"])


def destroyProgram(prog: int) -> None:  # noqa: N802
    _programs.pop(prog)
