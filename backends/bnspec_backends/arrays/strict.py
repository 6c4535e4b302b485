"""Arrays of array-api-strict: the array API standard and nothing beyond it.

The backend is for tests: code that runs here makes no call that only one library has.
"""

from collections.abc import Sequence
from typing import Any

import array_api_strict
import numpy

from bnspec import Kernels

__all__ = ["StrictBackend"]


class StrictBackend:
    """Backend "strict", for arrays of array-api-strict."""

    name = "strict"
    serving = "specification"

    def __init__(self) -> None:
        self.kernels: Kernels = Kernels()

    def version(self) -> str:
        """Return array-api-strict's version."""
        return str(array_api_strict.__version__)

    def devices(self) -> Sequence[str]:
        """Return the host alone."""
        return ("cpu",)

    def dtypes(self) -> Sequence[str]:
        """Return float32 and float64: the standard has no 16-bit floats."""
        return ("float32", "float64")

    def asarray(self, values: Any) -> Any:
        """Return a copy."""
        return array_api_strict.asarray(numpy.array(values))

    def to_numpy(self, x: Any) -> Any:
        """Return a NumPy array of the same values."""
        return numpy.array(numpy.from_dlpack(x))

    def synchronize(self) -> None:
        """Do nothing: array-api-strict has finished when a call returns."""
