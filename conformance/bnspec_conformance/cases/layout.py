"""Arrays of any channel axis as (G, C, L): group, channel, element; used by the oracle only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import Array, Case, as_float64

__all__ = ["GroupLayout", "layouts"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupLayout:
    """Folding of one rank's x into (G, C, L) and back.

    Attributes
    ----------
    shape : tuple of int
        Shape of x.
    axis : int
        Channel axis, >= 0.
    groups : int
        G; group j holds the samples ``j*N/G .. (j+1)*N/G - 1`` along axis 0.
    """

    shape: tuple[int, ...]
    axis: int
    groups: int

    @property
    def _moved(self) -> tuple[int, ...]:
        rest = [size for i, size in enumerate(self.shape) if i != self.axis]
        return (rest[0], self.shape[self.axis], *rest[1:])

    def fold(self, array: Array) -> Array:
        """Shape (G, C, L), dtype kept."""
        moved = np.moveaxis(np.broadcast_to(array, self.shape), self.axis, 1)
        samples, channels, *rest = self._moved
        per_group = samples // max(self.groups, 1)
        size = int(np.prod(rest, dtype=np.int64))
        blocks = moved.reshape(self.groups, per_group, channels, size).transpose(0, 2, 1, 3)
        return blocks.reshape(self.groups, channels, per_group * size)

    def unfold(self, array: Array) -> Array:
        """Undo `fold`."""
        samples, channels, *rest = self._moved
        per_group = samples // max(self.groups, 1)
        size = int(np.prod(rest, dtype=np.int64))
        blocks = array.reshape(self.groups, channels, per_group, size).transpose(0, 2, 1, 3)
        return np.moveaxis(np.ascontiguousarray(blocks).reshape(self._moved), 1, self.axis)

    def optional(self, array: Array | None) -> Floats:
        """Return the folded float64 values, zeros where there is no array."""
        return self.fold(as_float64(np.zeros(self.shape) if array is None else array))


def layouts(case: Case) -> Sequence[GroupLayout]:
    """Return one layout per rank, or refuse a case that no subject may accept either."""
    result = []
    for rank in case.ranks:
        shape = tuple(int(s) for s in rank.x.shape)
        axis = case.config.axis % len(shape)
        size = case.config.virtual_batch_size
        groups = 1
        if size is not None and case.mode == "batch":
            if axis == 0 or shape[0] % size:
                raise ValueError(f"{size} samples per group do not divide shape {shape} along axis 0 [BN-GRP-3]")
            groups = shape[0] // size
        result.append(GroupLayout(shape, axis, groups))
    if len({layout.groups for layout in result}) > 1:
        raise ValueError("the ranks have different numbers of groups [BN-SYNC-9]")
    return result
