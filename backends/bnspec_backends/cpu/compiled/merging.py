"""Merging of the moments of two sets: the operations of `bnspec._moments.merge_rows`, in the same order."""

from typing import Any

from bnspec_backends.cpu.compiled.dtypes import compiled
from bnspec_backends.cpu.compiled.scalar_math import exact_sum

__all__ = ["merge"]


@compiled
def merge(a: Any, b: Any, added: int, out: Any) -> None:
    """Merge rows: ``added`` blocks that are summed, the last of them the weight, then mean, its low part and m2."""
    channels = a.shape[1] // (added + 3)
    for g in range(a.shape[0]):
        for c in range(channels):
            weight, high = (added - 1) * channels + c, added * channels + c
            low, m2 = high + channels, high + 2 * channels
            na, nb = a[g, weight], b[g, weight]
            if nb == 0.0 or na == 0.0:  # a set without elements is the identity, to the bit
                for i in range(c, a.shape[1], channels):
                    out[g, i] = a[g, i] if nb == 0.0 else b[g, i]
                continue
            for i in range(c, high, channels):
                out[g, i] = a[g, i] + b[g, i]
            n = na + nb
            if n == 0.0:
                n = 1.0
            d = (b[g, high] - a[g, high]) + (b[g, low] - a[g, low])
            out[g, high], out[g, low] = exact_sum(a[g, high], a[g, low] + (d * nb) / n)
            out[g, m2] = (a[g, m2] + b[g, m2]) + (d * d) * (na * nb) / n
