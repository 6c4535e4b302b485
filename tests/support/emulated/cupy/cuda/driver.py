"""As much of `cupy.cuda.driver` as is asked for: kernels are started when the turn of their stream's work comes."""

import ctypes
import os
import tempfile
from typing import Any

from cupy import _array, _stream

_functions: dict[int, Any] = {}
_modules: dict[int, Any] = {}

#: The order of threads and blocks: 0 ascending, 1 descending, any other number a seed.
_ORDER = int(os.environ.get("EMULATED_ORDER", "0"))


class CUDADriverError(RuntimeError):
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.api.driver"


def _need_context() -> None:
    if not _stream.has_context():
        raise CUDADriverError("CUDA_ERROR_INVALID_CONTEXT: invalid device context")


def moduleLoadData(image: bytes) -> int:  # noqa: N802
    _need_context()
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(image)
        file.flush()
        library = ctypes.CDLL(file.name)
    _modules[id(library)] = library
    return id(library)


def moduleGetFunction(module: int, funcname: str) -> int:  # noqa: N802
    library = _modules[module]
    getattr(library, funcname)  # must be there
    function = library.start
    function.restype = ctypes.c_char_p
    library.bytes_of_call.restype = ctypes.c_ulong
    _functions[id(function)] = function, library.bytes_of_call()
    return id(function)


def launchKernel(  # noqa: N802
    f: int, grid_dim_x: int, grid_dim_y: int, grid_dim_z: int, block_dim_x: int, block_dim_y: int, block_dim_z: int,
    shared_mem_bytes: int, stream: int, kernel_params: int, extra: int,
) -> None:  # fmt: skip
    """Copy the argument, as the driver does, and queue the launch."""
    _need_context()
    if not (0 < grid_dim_x < 1 << 31 and 0 < grid_dim_y < 1 << 16 and grid_dim_z == 1 and 0 < block_dim_x <= 1024):
        raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
    if shared_mem_bytes > 48 << 10:
        raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
    first = ctypes.c_void_p.from_address(kernel_params).value
    function, size = _functions[f]
    call = ctypes.create_string_buffer(ctypes.string_at(first or 0, size), size)
    kept = _array.in_use()  # lives until the kernel has run, whichever of it the kernel reads or writes
    shape = (ctypes.c_uint * 3)(grid_dim_x, grid_dim_y, block_dim_x)

    def work() -> None:
        wrong = function(shape, ctypes.c_ulong(shared_mem_bytes), ctypes.c_uint(_ORDER), call)
        kept.clear()
        if wrong:
            os.write(2, b"emulated device: " + wrong + b"\n")
            os._exit(134)

    _stream.stream_of(stream)._enqueue(work)
