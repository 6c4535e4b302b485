"""NumPy arrays on the host. bfloat16 comes from ml_dtypes, if that is installed."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy

from bnspec import Kernels
from bnspec_backends import cpu

__all__ = ["NumpyBackend"]


class NumpyBackend:
    """Backend "numpy", for arrays in host memory."""

    name = "numpy"

    @property
    def kernels(self) -> Kernels:
        """Kernels of `bnspec_backends.cpu`."""
        return cpu.make(cpu.in_use())

    @property
    def serving(self) -> str:
        """Name of the kernels in use."""
        return cpu.in_use()

    @property
    def remark(self) -> str:
        """Reason why the kernels are not the fastest there are; empty if they are, or were chosen."""
        return cpu.remark()

    def version(self) -> str:
        """Return NumPy's version."""
        return numpy.__version__

    def devices(self) -> Sequence[str]:
        """Return the host alone."""
        return ("cpu",)

    def dtypes(self) -> Sequence[str]:
        """Return all four dtypes, bfloat16 only with ml_dtypes."""
        extra = ("bfloat16",) if importlib.util.find_spec("ml_dtypes") else ()
        return (*extra, "float16", "float32", "float64")

    def asarray(self, values: Any) -> Any:
        """Return a copy."""
        return numpy.array(values)

    def to_numpy(self, x: Any) -> Any:
        """Return x itself."""
        return x

    def synchronize(self) -> None:
        """Do nothing: NumPy has finished when a call returns."""
