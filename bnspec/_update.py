"""The running state as its user sees it: what becomes of it after a batch, and what inference reads of it."""

import functools

from bnspec._arrays import on_device_of, stop_gradient
from bnspec._checks import arguments
from bnspec._config import BatchNormConfig
from bnspec._discovery import kernels_for
from bnspec._kernels import Kernels
from bnspec._modes import recording, untraced
from bnspec._running import used_statistics
from bnspec._schedule import Schedule, scheduled
from bnspec._types import Array, Moments, RunningState

__all__ = ["running_statistics", "update_running"]


@on_device_of("state")
def update_running(
    state: RunningState,
    stats: Moments,
    config: BatchNormConfig,
    *,
    schedule: Schedule | None = None,
    name: str = "batch_norm",
) -> RunningState:
    """Return the running state after one batch.

    Parameters
    ----------
    state : RunningState
        The state before; not written [BN-RUN-12].
    stats : Moments
        As returned by `batch_norm`: (G, C) moments, joined across ranks.
    config : BatchNormConfig
        Its decay, correction, averaging, ghost_source, single_value, nonfinite and renorm apply.
    schedule : Schedule, optional
        The decay of this call, in the place of the configuration's; a number or an array [BN-RUN-1].
    name : str
        The layer's name, for error texts.

    Returns
    -------
    RunningState
        Arrays of the old state's dtypes.

    Raises
    ------
    TypeError, ValueError
        For a state or moments that break a clause, such as those of another shape, or with a variance or count below 0
        [BN-RUN-14]. If the count does not exceed the correction and ``single_value="raise"`` [BN-RUN-4].
    FloatingPointError
        If a statistic is not finite and ``nonfinite="raise"`` [BN-RUN-10].

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.75, correction=1)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> y, stats, saved = bnspec.batch_norm(np.asarray([[1.0], [3.0]]), params, config)
    >>> new = bnspec.update_running(state, stats, config)   # batch mean 2, corrected variance 2
    >>> new.mean.tolist(), new.var.tolist()
    ([0.5], [1.25])
    """
    if recording(getattr(state, "mean", None)):
        from bnspec._torch import calls

        calls.no_schedule(schedule, name)
        return calls.update_running(state, stats, config, name=name)
    untraced(arguments.running, state, stats, config, name)
    # Constants to automatic differentiation: a state that carried its graph along would grow with every step.
    state = RunningState(*(v if v is None else stop_gradient(v) for v in state))
    stats = Moments(*map(stop_gradient, stats))
    config, known = scheduled(config, schedule, stats.m2, stats.m2.dtype, name)
    kernels = kernels_for(stats.m2)
    return (kernels.update if known else functools.partial(Kernels.update, kernels))(state, stats, config, name=name)


@on_device_of("state")
def running_statistics(state: RunningState, config: BatchNormConfig) -> tuple[Array, Array]:
    """Return the mean and variance that inference uses, shape (C,), in the state's dtypes [BN-RUN-7].

    They are the state's own, except under ``averaging="debiased"``: there they are divided by
    ``1 - decay^t``, and are 0 and 1 before the first update.

    Raises
    ------
    TypeError, ValueError
        For a state that breaks a clause, which the text names.

    Examples
    --------
    >>> import numpy as np
    >>> config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.75, correction=0, averaging="debiased")
    >>> state = RunningState(np.asarray([0.5]), np.asarray([1.0]), count=np.asarray([1]))
    >>> [v.round(12).tolist() for v in running_statistics(state, config)]
    [[2.0], [4.0]]
    """
    untraced(arguments.statistics, state, config, "running_statistics")
    return used_statistics(state, config)
