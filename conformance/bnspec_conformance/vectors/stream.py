"""Numbers for the vectors that are the same on every platform and for every version of every library.

A stream is SplitMix64, started from the SHA-256 of its words. Everything drawn is made of its integers by operations
that IEEE 754 defines to the last bit; there is no logarithm, exponential or power in it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import Array

__all__ = ["Stream", "as_dtype"]

_MASK = (1 << 64) - 1


def as_dtype(values: npt.ArrayLike, dtype: str) -> Array:
    """Return the values rounded to a dtype; to 16 bits by way of float32, the one way that every library agrees on."""
    wide = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        if dtype == "float64":
            return wide
        single = wide.astype(np.float32)
        return single.astype(np.dtype(ml_dtypes.bfloat16)) if dtype == "bfloat16" else single.astype(dtype)


class Stream:
    """A source of integers and of what is made of them.

    Parameters
    ----------
    *words : int or str
        The same words, the same stream.
    """

    def __init__(self, *words: int | str) -> None:
        digest = hashlib.sha256("/".join(map(str, words)).encode("ascii")).digest()
        self._state = int.from_bytes(digest[:8], "little")

    def bits(self, count: int) -> int:
        """Return the upper `count` bits of the next number, at most 64."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return (z ^ (z >> 31)) >> (64 - count)

    def integers(self, low: int, high: int, size: int | None = None) -> Any:
        """Integers from `low` to below `high`: one, or an array of `size`."""
        if size is None:
            return low + self.bits(48) % (high - low)
        return np.array([low + self.bits(48) % (high - low) for _ in range(size)], dtype=np.int64)

    def permutation(self, values: npt.ArrayLike) -> Array:
        """Return the values in another order (Fisher and Yates)."""
        shuffled = np.array(values)
        for last in range(len(shuffled) - 1, 0, -1):
            other = self.integers(0, last + 1)
            shuffled[[last, other]] = shuffled[[other, last]]
        return shuffled

    def choice(self, values: Sequence[int]) -> int:
        """Return one of the values."""
        return values[int(self.integers(0, len(values)))]

    def normals(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """About standard normal: sums of twelve uniform integers, exact multiples of 2**-32 in [-6, 6]."""
        size = int(np.prod(shape, dtype=np.int64))
        sums = [sum(self.bits(32) for _ in range(12)) for _ in range(size)]
        return (np.array(sums, dtype=np.float64) * 2.0**-32 - 6.0).reshape(shape)

    def uniforms(self, low: float, high: float, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Multiples of (high - low) * 2**-24 from `low` to `high`."""
        size = int(np.prod(shape, dtype=np.int64))
        steps = np.array([self.bits(24) for _ in range(size)], dtype=np.float64) * 2.0**-24
        scaled = steps * (high - low)
        return (low + scaled).reshape(shape)

    def generator(self) -> np.random.Generator:
        """Return the stream for `families.exact_inputs`, which asks for integers, permutations and choices only."""
        return cast(np.random.Generator, self)
