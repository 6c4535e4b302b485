"""One step of the running averages of a batch with one group: the everyday case of `bnspec.update_running`."""

from typing import Any

from bnspec_backends.cpu.compiled.dtypes import compiled, internal

__all__ = ["step"]


@compiled
def step(
    moments: Any, n: int, weight: float, top: float, old: Any, new: Any, counter: Any, most: int, cumulative: bool
) -> Any:
    """``new = old + weight*(batch - old)`` for mean and variance; return whether all that is as it should be.

    It is not where a number is infinite, NaN or, against BN-RUN-14, below 0; the specification's steps say what then.

    Parameters
    ----------
    moments : tuple of array
        mean, its low part, and m2 of the batch.
    n : int
        What m2 is divided by.
    weight : float
        The share of the batch, unless ``cumulative``: then ``1/(updates before + 1)``.
    top : float
        The largest number that the state can hold.
    old, new : tuple of array
        Mean and variance, before and after.
    counter : tuple of array or None
        Updates before and after, at most ``most``.
    """
    mean, low, m2 = moments
    usable = True
    for c in range(mean.size):
        w = weight
        if counter is not None:
            before, after = counter
            usable = usable and 0 <= before[c] < most  # it stops there rather than wrap [BN-RUN-13]
            after[c] = before[c] + 1
            if cumulative:
                w = 1.0 / (float(before[c]) + 1.0)
        batch_mean, batch_var = mean[c] + low[c], m2[c] / n
        usable = usable and abs(batch_mean) <= top and 0.0 <= batch_var <= top and old[1][c] >= 0.0
        new[0][c] = _moved(float(old[0][c]), batch_mean, w)
        new[1][c] = _moved(float(old[1][c]), batch_var, w)
    return usable


@internal
def _moved(old: float, batch: float, w: float) -> Any:
    """Weight 1 takes the batch and weight 0 keeps the old to the bit [BN-RUN-11]."""
    if w == 1.0:
        return batch
    return old if w == 0.0 else old + w * (batch - old)
