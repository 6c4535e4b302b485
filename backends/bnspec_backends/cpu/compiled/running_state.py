"""Step of the running averages for a batch of one group: the common case of `bnspec.update_running`, and in place."""

from typing import Any

from bnspec_backends.cpu.compiled.dtypes import compiled, internal

__all__ = ["advance", "step"]


@compiled
def step(
    moments: Any, n: int, weight: float, top: float, old: Any, new: Any, counter: Any, most: int, cumulative: bool
) -> Any:
    """Write ``old + weight*(batch - old)`` to ``new``, for mean and variance; return whether the result may be used.

    False means that a number is infinite, NaN or, against BN-RUN-14, below 0. Then the specification's own step serves.

    Parameters
    ----------
    moments : tuple of array
        Mean, its low part, and m2 of the batch.
    n : int
        Divisor of m2.
    weight : float
        Weight of the batch. With ``cumulative`` it is ``1/(updates before + 1)`` instead.
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
        usable = usable and _usable(batch_mean, batch_var, float(old[1][c]), top)
        new[0][c] = _moved(float(old[0][c]), batch_mean, w)
        new[1][c] = _moved(float(old[1][c]), batch_var, w)
    return usable


@compiled
def advance(moments: Any, n: int, weight: float, top: float, mean: Any, var: Any, updates: Any) -> Any:
    """Do the step in place and add 1 to ``updates``, of shape (); return False, and change nothing, where `step` does.

    The other parameters are those of `step`, without a counter of each channel.
    """
    batch_mean, low, m2 = moments
    for c in range(mean.size):
        if not _usable(batch_mean[c] + low[c], m2[c] / n, float(var[c]), top):
            return False
    for c in range(mean.size):
        mean[c] = _moved(float(mean[c]), batch_mean[c] + low[c], weight)
        var[c] = _moved(float(var[c]), m2[c] / n, weight)
    if updates is not None:
        updates[()] += 1
    return True


@internal
def _usable(batch_mean: float, batch_var: float, old_var: float, top: float) -> Any:
    """Return whether all numbers of a step are finite, and no variance is below 0."""
    return abs(batch_mean) <= top and 0.0 <= batch_var <= top and old_var >= 0.0


@internal
def _moved(old: float, batch: float, w: float) -> Any:
    """Return the average; weight 1 takes the batch and weight 0 keeps the old value, to the bit [BN-RUN-11]."""
    if w == 1.0:
        return batch
    return old if w == 0.0 else old + w * (batch - old)
