"""NumPy arrays on the host. bfloat16 comes from ml_dtypes, where that is installed."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy

from bnspec import Kernels
from bnspec_backends import cpu

__all__ = ["NumpyBackend"]


class NumpyBackend:
    """Backend "numpy"."""

    name = "numpy"

    @property
    def kernels(self) -> Kernels:
        """Those of `bnspec_backends.cpu`."""
        return cpu.make(cpu.in_use())

    @property
    def remark(self) -> str:
        """Why the kernels are not the fastest there are; empty where they are, or were chosen."""
        return cpu.remark()

    def version(self) -> str:
        """NumPy's version."""
        return numpy.__version__

    def devices(self) -> Sequence[str]:
        """Always the host."""
        return ("cpu",)

    def dtypes(self) -> Sequence[str]:
        """All four, bfloat16 only with ml_dtypes."""
        extra = ("bfloat16",) if importlib.util.find_spec("ml_dtypes") else ()
        return (*extra, "float16", "float32", "float64")

    def asarray(self, values: Any) -> Any:
        """Return a copy."""
        return numpy.array(values)

    def to_numpy(self, x: Any) -> Any:
        """Return x itself."""
        return x

    def synchronize(self) -> None:
        """Do nothing: NumPy has finished when it returns."""
