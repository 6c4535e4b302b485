"""Fresh parameters and a fresh running state (SPEC.md, "Running statistics")."""

from numbers import Integral

from bnspec._arrays import array_namespace, full, on_device_of
from bnspec._checks.arrays import floating
from bnspec._checks.records import configuration
from bnspec._config import BatchNormConfig
from bnspec._dtypes import count_dtype, statistics_dtype
from bnspec._errors import refusal
from bnspec._types import Array, Params, RunningState

__all__ = ["init"]


@on_device_of("like")
def init(config: BatchNormConfig, *, channels: int, like: Array) -> tuple[Params, RunningState]:
    """Return gamma = 1, beta = 0, mean = 0 and var = 1, and what else the configuration remembers.

    Parameters
    ----------
    config : BatchNormConfig
        Decides which parameters and fields exist.
    channels : int
        C >= 0.
    like : array
        Its library, device and dtype decide those of the new arrays: float64 for float64, else float32. Of JAX's arrays
        only one that is committed to one device decides on a device.

    Returns
    -------
    params : Params
        gamma and beta, shape (C,).
    state : RunningState
        mean 0 and var 1, except under ``averaging="debiased"``, whose sums start at 0 [BN-RUN-2, BN-RUN-7];
        count 0; for renorm also stddev 1, renorm_mean 0 and renorm_stddev 1.

    Raises
    ------
    ValueError, TypeError
        For a channel count that is no integer >= 0, or a `like` that is no floating array.

    Examples
    --------
    >>> import numpy as np
    >>> config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, center=False)
    >>> params, state = init(config, channels=2, like=np.zeros(1, "float16"))
    >>> params.gamma.tolist(), params.beta, state.var.dtype.name
    ([1.0, 1.0], None, 'float32')
    """
    configuration(config, "init")
    floating("like", like, "init")
    if isinstance(channels, bool) or not isinstance(channels, Integral) or channels < 0:
        raise refusal(
            ValueError,
            "BN-SHAPE-4",
            got=f"channels is {channels!r}",
            expected="an integer >= 0",
            do="Pass the length of the channel axis.",
        )
    channels = int(channels)
    xp = array_namespace(like)
    dtype = statistics_dtype(like)

    def zeros() -> Array:
        return full((channels,), 0.0, dtype=dtype, like=like)

    def ones() -> Array:
        return full((channels,), 1.0, dtype=dtype, like=like)

    params = Params(ones() if config.scale else None, zeros() if config.center else None)
    state = RunningState(zeros(), zeros() if config.averaging == "debiased" else ones())
    if config.counts_updates:
        state = state._replace(count=full((channels,), 0, dtype=count_dtype(xp), like=like))
    if config.renorm is not None:
        state = state._replace(stddev=ones())
        if config.renorm.form == "tensorpack":
            state = state._replace(renorm_mean=zeros(), renorm_stddev=ones())
    return params, state
