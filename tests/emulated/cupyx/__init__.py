"""As much of `cupyx` as is asked for."""

import numpy as np
from cupy import _array


def empty_pinned(shape, dtype=float, order="C"):
    made = np.empty(shape, dtype)
    made.reshape(-1).view(np.uint8)[...] = 0xFF
    _array._pinned[id(made)] = made
    return made
