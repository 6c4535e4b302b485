"""Compiling: machine code of one kernel for one device, made by NVRTC when it is first needed, and kept in files.

CuPy's own compiler appends ``-ftz=true``, which reads and writes subnormal numbers as 0, and lets products and sums
fuse where the formula has two roundings. So the source is handed to NVRTC directly.
"""

import functools
import hashlib
import logging
import os
import tempfile
from pathlib import Path

import cupy
from cupy.cuda import driver, nvrtc

from bnspec._errors import refusal
from bnspec_backends.cuda.plan import THREADS

__all__ = ["OPTIONS", "cache_folder", "kernel", "machine_code", "program"]

#: What NVRTC is told beside the architecture.
OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")

_log = logging.getLogger(__name__)


def kernel(what: str) -> int:
    """Return the handle of a kernel on the current device.

    Parameters
    ----------
    what : str
        A function of batch_norm.cu with its template arguments, as ``"normalize<float, Runs<4>, 4, false>"``.

    Raises
    ------
    RuntimeError
        If NVRTC cannot be loaded or does not know the device [BN-ERR-5].
    """
    return _loaded(what, cupy.cuda.Device().id)


@functools.cache
def _loaded(what: str, device: int) -> int:
    module = driver.moduleLoadData(machine_code(what, _architecture(device)))
    return int(driver.moduleGetFunction(module, "entry"))


@functools.cache
def _architecture(device: int) -> str:
    return f"sm_{cupy.cuda.Device(device).compute_capability}"


def program(what: str) -> str:
    """Return the source of one kernel."""
    return (
        f"{_source()}\nusing Argument = {'Update' if what == 'update' else 'Call'};\n"
        f'extern "C" __global__ void __launch_bounds__({_bounds(what)}) '
        f"entry(const __grid_constant__ Argument argument) {{ {what}(argument); }}\n"
    )


def _bounds(what: str) -> str:
    """Return the threads of a block, and how many blocks a multiprocessor must hold: a limit on a thread's registers.

    Left alone, the compiler gives some sums so many that a multiprocessor holds one block or two, too few to keep
    memory busy. Masks and float64 need more registers than four blocks leave.
    """
    masked = what.endswith("true>")
    sums = what.startswith(("moments", "grad_sums")) and not masked and "double" not in what
    return f"{THREADS}, 4" if sums else str(THREADS)


@functools.cache
def _source() -> str:
    return Path(__file__).with_name("batch_norm.cu").read_text(encoding="utf-8")


def machine_code(what: str, architecture: str) -> bytes:
    """Return the code of a kernel for an architecture such as "sm_90", from a file where it was compiled before."""
    source = program(what)
    try:
        version = nvrtc.getVersion()
    except Exception as error:
        raise _no_compiler(architecture, error) from error
    options = (f"-arch={architecture}", *OPTIONS)
    name = hashlib.sha256(repr((source, options, version)).encode()).hexdigest()[:32]
    path = cache_folder() / f"{name}.cubin"
    if path.is_file():
        return path.read_bytes()
    code = _compiled(source, options, architecture)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)  # others may be writing the same file
    except OSError as error:
        _log.warning("compiled CUDA kernels are not kept, each process compiles them anew: %s", error)
    return code


def _compiled(source: str, options: tuple[str, ...], architecture: str) -> bytes:
    made = nvrtc.createProgram(source, "batch_norm.cu", (), ())
    try:
        nvrtc.compileProgram(made, options)
        return bytes(nvrtc.getCUBIN(made))
    except nvrtc.NVRTCError as error:
        raise _no_compiler(architecture, f"{error}\n{nvrtc.getProgramLog(made)}") from error
    finally:
        nvrtc.destroyProgram(made)


def cache_folder() -> Path:
    """Return the folder of compiled kernels: BNSPEC_CUDA_CACHE, or ``bnspec/cuda`` in the user's cache folder."""
    named = os.environ.get("BNSPEC_CUDA_CACHE", "").strip()
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or Path.home() / ".cache") / "bnspec" / "cuda"


def _no_compiler(architecture: str, why: object) -> Exception:
    return refusal(
        RuntimeError,
        "BN-ERR-5",
        got=f"no kernel for a CUDA device of {architecture}: {why}",
        expected="NVRTC, of a version that knows the device",
        do='Install it with the extra, `pip install "bnspec[cuda]"`, or use("specification") of bnspec_backends.cuda.',
    )
