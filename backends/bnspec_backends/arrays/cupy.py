"""CuPy arrays on CUDA devices, on CuPy's current device and stream."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import cupy

from bnspec import Kernels
from bnspec_backends import cuda

__all__ = ["CupyBackend"]


class CupyBackend:
    """Backend "cupy", for arrays on CUDA devices."""

    name = "cupy"

    @property
    def kernels(self) -> Kernels:
        """Kernels of `bnspec_backends.cuda`."""
        return cuda.make(cuda.in_use())

    @property
    def serving(self) -> str:
        """Name of the kernels in use."""
        return cuda.in_use()

    @property
    def remark(self) -> str:
        """Remark on what the kernels in use do not serve."""
        return cuda.remark()

    def version(self) -> str:
        """Return CuPy's version."""
        return str(cupy.__version__)

    def devices(self) -> Sequence[str]:
        """Return every CUDA device; none if there is no driver."""
        try:
            number = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError:
            return ()
        return tuple(f"cuda:{i}" for i in range(number))

    def dtypes(self) -> Sequence[str]:
        """Return all four dtypes, bfloat16 only with ml_dtypes and CuPy 14 or newer."""
        major = int(str(cupy.__version__).split(".")[0])
        extra = ("bfloat16",) if major >= 14 and importlib.util.find_spec("ml_dtypes") else ()
        return (*extra, "float16", "float32", "float64")

    def asarray(self, values: Any) -> Any:
        """Copy to the current device."""
        return cupy.array(values)

    def to_numpy(self, x: Any) -> Any:
        """Copy to the host."""
        return cupy.asnumpy(x)

    def synchronize(self) -> None:
        """Wait for the current device."""
        cupy.cuda.Device().synchronize()
