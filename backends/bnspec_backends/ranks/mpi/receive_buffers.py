"""Room for the frames of one round, used again by collectives of one shape, one after the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnspec_backends.ranks.headers import HEADER

__all__ = ["Room", "Rooms"]

#: Shapes for which room is kept.
_MOST = 256


class Room:
    """Room for the frames of one round, all of one length: as bytes, and the arrays in them."""

    def __init__(self, sources: Sequence[int], own: int, like: Any) -> None:
        rows = np.empty((len(sources), HEADER + like.nbytes), np.uint8)
        self.frames = [row.data for row in rows]
        self.arrays = [row[HEADER:].view(like.dtype).reshape(like.shape) for row in rows]
        self.mine = sources.index(own)
        self.waits = {source: frame for source, frame in zip(sources, self.frames) if source != own}


class Rooms:
    """The rooms of one rank's end of a group.

    Parameters
    ----------
    own : int
        The rank.
    """

    def __init__(self, own: int) -> None:
        self._own = own
        self._kept: dict[Any, Room] = {}

    def of(self, sources: tuple[int, ...], payload: Any) -> Room:
        """The room for frames of these ranks with arrays like this one."""
        key = sources, payload.shape, payload.dtype.str
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _MOST:
                self._kept.clear()
            found = self._kept[key] = Room(sources, self._own, payload)
        return found

    def clear(self) -> None:
        """Give all of it back."""
        self._kept.clear()
