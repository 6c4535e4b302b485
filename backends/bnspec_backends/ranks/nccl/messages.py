"""What ranks send each other on devices: the header of `bnspec_backends.ranks.headers` and one or more payloads.

A message is an array of 64-bit words on the device: 8 words of header, then the payloads, each at a word of its own.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bnspec._types import Array
from bnspec_backends.ranks.headers import HEADER

__all__ = ["HEAD", "Layout"]

#: Words of a header.
HEAD = HEADER // 8


class Layout(NamedTuple):
    """Where the payloads are in a message, and what they are.

    Attributes
    ----------
    words : int
        Length of the whole message.
    starts : tuple of int
    shapes, dtypes : tuple
    """

    words: int
    starts: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, payloads: Sequence[Array]) -> "Layout":
        """The layout of a message with these payloads."""
        lengths = [-(-payload.nbytes // 8) for payload in payloads]
        starts = tuple(itertools.accumulate(lengths, initial=HEAD))
        return cls(starts[-1], starts[:-1], tuple(p.shape for p in payloads), tuple(p.dtype for p in payloads))

    def payloads(self, message: Array) -> list[Array]:
        """The payloads in a message; they share its memory."""
        found = []
        for start, shape, dtype in zip(self.starts, self.shapes, self.dtypes):
            size = int(np.prod(shape, dtype=np.int64))
            end = start + -(-size * dtype.itemsize // 8)
            found.append(message[start:end].view(dtype)[:size].reshape(shape))
        return found

    def fill(self, message: Array, payloads: Sequence[Array]) -> None:
        """Write payloads to a message."""
        for place, payload in zip(self.payloads(message), payloads):
            place[...] = payload
