"""Forward pass and update of the running state in one call, for training loops that are pure functions."""

from bnspec._arrays import on_device_of
from bnspec._batch_norm import batch_norm, batch_norm_inference
from bnspec._checks import arguments
from bnspec._checks.scalars import switch
from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig
from bnspec._dtypes import arithmetic_dtype
from bnspec._modes import untraced
from bnspec._schedule import Schedule, scheduled
from bnspec._types import Array, Params, RunningState
from bnspec._update import update_running

__all__ = ["apply"]


@on_device_of("x")
def apply(
    x: Array,
    params: Params,
    state: RunningState,
    config: BatchNormConfig,
    *,
    train: bool,
    mask: Array | None = None,
    lengths: Array | None = None,
    comm: Communicator | None = None,
    schedule: Schedule | None = None,
    name: str = "batch_norm",
) -> tuple[Array, RunningState]:
    """Normalize x by its batch and update the running state, or by the running state alone.

    ::

        train:      y, stats, _ = batch_norm(x, params, config, state=state, ...)
                    state       = update_running(state, stats, config)
        otherwise:  y, _        = batch_norm_inference(x, params, state, config)

    Parameters
    ----------
    x, params, config, name
        As in `batch_norm`.
    state : RunningState
        The state before; not written.
    train : bool
        Whether x is normalized by its own statistics; Python's own boolean, since the two are different programs.
    mask, lengths, comm
        As in `batch_norm`. Without `train` a mask and lengths are checked and have no effect, since each element is
        normalized alone, and no rank sends anything.
    schedule : Schedule, optional
        Numbers in the place of the configuration's; without effect where not `train`.

    Returns
    -------
    y : array
        x's shape and dtype.
    state : RunningState
        The state after: the given one itself where not `train`. A constant to automatic differentiation.

    Raises
    ------
    TypeError, ValueError
        For input that breaks a clause, which the text names.
    FloatingPointError
        As `update_running`.
    CommunicatorError
        As `batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.75, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> y, state = bnspec.apply(np.asarray([[1.0], [3.0]]), params, state, config, train=True)
    >>> y.tolist(), state.mean.tolist(), state.var.tolist()
    ([[-0.5], [0.5]], [0.5], [1.0])
    >>> bnspec.apply(np.asarray([[2.5]]), params, state, config, train=False)[0].tolist()
    [[1.0]]
    """
    train = switch(f"{name}: train", train, "BN-INF-2", "True trains, False predicts; under a trace make it static.")
    if not train:
        y, saved = batch_norm_inference(x, params, state, config, name=name)
        untraced(arguments.company, x, saved.static.groups.axis, mask, lengths, comm, name)
        untraced(scheduled, config, schedule, x, arithmetic_dtype(x), name)
        return y, state
    y, stats, _ = batch_norm(
        x, params, config, state=state, mask=mask, lengths=lengths, comm=comm, schedule=schedule, name=name
    )
    return y, update_running(state, stats, config, schedule=schedule, name=name)
