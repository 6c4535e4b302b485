"""Receive buffers for the messages of one round, used again by collectives of one shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnspec_backends.ranks.headers import HEADER

__all__ = ["BufferCache", "ReceiveBuffers"]

#: Most cached buffers, one per (sources, shape, dtype).
_MOST = 256


class ReceiveBuffers:
    """Buffers for the messages of one round, all of one length: as bytes, and as the arrays in them."""

    def __init__(self, sources: Sequence[int], own: int, like: Any) -> None:
        rows = np.empty((len(sources), HEADER + like.nbytes), np.uint8)
        self.frames = [row.data for row in rows]
        self.arrays = [row[HEADER:].view(like.dtype).reshape(like.shape) for row in rows]
        self.mine = sources.index(own)
        self.waits = {source: frame for source, frame in zip(sources, self.frames) if source != own}


class BufferCache:
    """Cache of the receive buffers of one rank's end of a group.

    Parameters
    ----------
    own : int
        The rank.
    """

    def __init__(self, own: int) -> None:
        self._own = own
        self._kept: dict[Any, ReceiveBuffers] = {}

    def of(self, sources: tuple[int, ...], payload: Any) -> ReceiveBuffers:
        """Return the buffers for messages of these ranks with arrays like this one."""
        key = sources, payload.shape, payload.dtype.str
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _MOST:
                self._kept.clear()
            found = self._kept[key] = ReceiveBuffers(sources, self._own, payload)
        return found

    def clear(self) -> None:
        """Free all buffers."""
        self._kept.clear()
