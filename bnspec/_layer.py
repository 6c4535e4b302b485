"""The layer: what holds parameters and state and composes the functions (SPEC.md, "Update timing").

`BatchNorm` has the arguments, defaults and variable names of tensorpack's layer of that name, for eager
arrays of any library and any rank. All maths is in the functions; a layer decides which of them run.
"""

import functools
import threading
import warnings
from typing import Any, Self

from bnspec import _context
from bnspec._batch_norm import batch_norm, batch_norm_inference
from bnspec._config import BatchNormConfig, Renorm
from bnspec._context import TrainingContext
from bnspec._derivatives import batch_norm_vjp
from bnspec._dialects import dialects
from bnspec._errors import refusal
from bnspec._init import init
from bnspec._options import EMA_UPDATES, channel_axis_of, from_aliases, initialize, is_channels_last
from bnspec._precision import dtype_name, stop_gradient
from bnspec._protocols import Communicator
from bnspec._registry import get_communicator
from bnspec._running import update_running
from bnspec._state_dict import StateDict
from bnspec._types import Array, Gradients, Moments, Params, RunningState, Saved
from bnspec._validate import channel_axis

__all__ = ["BatchNorm"]

#: Guards reading a state, updating it and writing it back; one for all layers, so that a layer can be copied.
_STATE = threading.RLock()


class BatchNorm(StateDict):
    """Batch normalization as a layer, with tensorpack's options.

    Variables are made at the first call, for the channels, library, device and dtype of its input.

    Parameters
    ----------
    axis : int, optional
        Channel axis; by default axis 1 for rank 2, else what `data_format` says.
    training : bool, optional
        True normalizes by the batch, False by the running statistics. None asks the `training_context`,
        and outside of any the layer's own `train`/`eval` switch, which is on at first. Alias use_local_stat.
    decay : float, optional
        Weight in [0, 1] the old running value keeps; the dialect's by default (0.9). Alias momentum, which is taken
        in the dialect's sense: torch's weighs the new value.
    epsilon : float, optional
        The dialect's by default (1e-5).
    center, scale : bool, optional
        Whether beta and gamma exist; True by default. Aliases use_bias and use_scale.
    beta_initializer, gamma_initializer : None, number, array or callable, optional
        Zeros and ones by default; a callable takes the shape (C,). Aliases beta_init and gamma_init.
    virtual_batch_size : int, optional
        Samples per ghost group; must divide the batch. Only with batch statistics.
    data_format : {"channels_last", "channels_first", "NHWC", "NCHW"}, optional
        Where the channels are when axis is None and the rank is not 2; by default where the dialect has
        them, which is last in bnspec's and tensorpack's.
    ema_update : {"default", "collection", "internal", "skip"}
        Who updates the running state: the call itself ("internal"), the caller later by
        ``context.updates.run()`` ("collection"), nobody ("skip"). "default" is "internal", and under the
        tensorpack dialect "collection".
    sync_statistics : str, optional
        Join the statistics of all ranks of the communicator of that name: "threads", "mpi", "nccl";
        "horovod" is another word for "mpi".
    comm : Communicator, optional
        The communicator itself instead of its name.
    renorm : Renorm, optional
        Batch renormalization; see `BatchRenorm`.
    trainable : bool
        False withholds the gradients of gamma and beta.
    dialect : str
        A row of `bnspec.dialects`, for what the arguments leave open, the names of the variables, and
        what is refused.
    name : str
        In error texts, and compared between ranks.
    correction, averaging, ghost_source, sync_weighting, single_value, nonfinite
        Fields of `BatchNormConfig`; the dialect's by default.

    Attributes
    ----------
    params : Params or None
        gamma and beta; may be replaced, for example by an optimizer.
    state : RunningState or None
        The running state.
    gradients : Gradients or None
        What the last `backward` computed.

    References
    ----------
    Ioffe, Szegedy 2015; the layer's options are those of tensorpack.models.BatchNorm.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchNorm(epsilon=3.0, decay=0.75)
    >>> layer(np.asarray([[1.0], [3.0]])).tolist()
    [[-0.5], [0.5]]
    >>> {name: value.tolist() for name, value in layer.variables.items()}
    {'beta': [0.0], 'gamma': [1.0], 'mean/EMA': [0.5], 'variance/EMA': [1.0]}
    >>> layer.backward(np.asarray([[0.0], [4.0]])).tolist()
    [[-0.75], [0.75]]
    """

    def __init__(
        self,
        axis: int | None = None,
        *,
        training: bool | None = None,
        decay: float | None = None,
        epsilon: float | None = None,
        center: bool | None = None,
        scale: bool | None = None,
        beta_initializer: Any = None,
        gamma_initializer: Any = None,
        virtual_batch_size: int | None = None,
        data_format: str | None = None,
        ema_update: str = "default",
        sync_statistics: str | None = None,
        comm: Communicator | None = None,
        renorm: Renorm | None = None,
        trainable: bool = True,
        dialect: str = "bnspec",
        name: str = "batch_norm",
        correction: int | None = None,
        averaging: str | None = None,
        ghost_source: str | None = None,
        sync_weighting: str | None = None,
        single_value: str | None = None,
        nonfinite: str | None = None,
        **aliases: Any,
    ) -> None:
        self.dialect = dialects[dialect]
        momentum = aliases.get("momentum")
        if (
            isinstance(momentum, int | float)
            and not isinstance(momentum, bool)
            and self.dialect.momentum_weighs == "new"
        ):
            aliases["momentum"] = 1.0 - momentum  # in the dialect's own sense of the word [BN-RUN-1]
        own = from_aliases(
            {
                "decay": decay,
                "center": center,
                "scale": scale,
                "beta_initializer": beta_initializer,
                "gamma_initializer": gamma_initializer,
                "training": training,
            },
            aliases,
            type(self).__name__,
        )
        self.name = name
        self.training: bool | None = own["training"]
        self.trainable = trainable
        self.renorm = renorm
        self.params: Params | None = None
        self.state: RunningState | None = None
        self.gradients: Gradients | None = None
        self._axis, self._data_format = axis, data_format
        self._initializers = own["gamma_initializer"], own["beta_initializer"]
        self._fields = {
            key: value
            for key, value in {
                "decay": own["decay"],
                "epsilon": epsilon,
                "center": own["center"],
                "scale": own["scale"],
                "virtual_batch_size": virtual_batch_size,
                "correction": correction,
                "averaging": averaging,
                "ghost_source": ghost_source,
                "sync_weighting": sync_weighting,
                "single_value": single_value,
                "nonfinite": nonfinite,
            }.items()
            if value is not None
        }
        self._ema_update = self._check_update(ema_update)
        self._sync_statistics = self._check_sync(sync_statistics)
        self._comm = comm
        self._training_mode = True
        self._saved: tuple[Saved, Communicator | None] | None = None
        self._loaded: dict[str, Any] | None = None
        if data_format is not None:
            is_channels_last(data_format)
        # A configuration nobody asks for at this rank; built so that a bad argument is refused here, not at the first
        # call. A negative axis waits for the call, where x's rank says what it means.
        rank = 4 if self.dialect.ranks is None else max(self.dialect.ranks)
        early = self.dialect.axis if axis is None or (isinstance(axis, int) and axis < 0) else axis
        self._config(rank, early, "float32", sync=False)
        if virtual_batch_size is not None and self._joins_ranks:
            self.dialect.check(rank=rank, axis=self.dialect.axis % rank, dtype="float32", ghost=True, sync=True)

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalize x, and update the running state as `ema_update` says.

        Parameters
        ----------
        x : array, shape (N, ..., C, ...)
            float16, bfloat16, float32 or float64.
        mask : array of bool, optional
            False elements enter no statistic; without effect on running statistics [BN-INF-2].

        Returns
        -------
        array
            x's shape and dtype.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            Naming the clause; parameters, state and pending updates stay as they were.
        """
        explicit = _context.current_context()
        context = explicit or TrainingContext(self._training_mode)
        training = context.is_training if self.training is None else bool(self.training)
        sync = training and self._joins_ranks
        config = self.config_for(x, training=training)
        params, state = self._variables_for(x, config)
        used = params
        if not self.trainable:  # a constant also to the library's own differentiation [BN-INF-6]
            used = Params(*(v if v is None else stop_gradient(v) for v in params))
        if not training:
            y, saved = batch_norm_inference(x, used, state, config, name=self.name)
            if explicit is not None and context.is_main_training_tower:  # never outside of a context
                _context.warn_frozen(self.name)
            self._keep(params, state, (saved, None))
            return y

        mode = self._update_mode(context, explicit is not None, ghost=config.virtual_batch_size is not None, sync=sync)
        comm = self._communicator() if sync else None
        y, stats, saved = batch_norm(x, used, config, state=state, mask=mask, comm=comm, name=self.name)
        stats = Moments(*map(stop_gradient, stats))  # an update that waits must not keep the graph of its batch
        if mode == "internal":
            with _STATE:  # against the state as it is now: another thread may have moved it since
                current = state if self.state is None else self.state
                self.state = update_running(current, stats, config, name=self.name)
        self._keep(params, state, (saved, comm))
        if mode == "collection":
            context.updates.add(functools.partial(self._update, stats, config))
        return y

    def _keep(self, params: Params, state: RunningState, saved: tuple[Saved, Communicator | None]) -> None:
        """Keep what backward needs, and the variables if this call made them; never write back what it only read."""
        with _STATE:
            self.params = params if self.params is None else self.params
            self.state = state if self.state is None else self.state
            self._saved, self._loaded = saved, None

    def backward(self, dy: Array) -> Array:
        """Return dx of the last call, and keep all gradients in ``layer.gradients``.

        Parameters
        ----------
        dy : array
            Of y's shape.

        Raises
        ------
        RuntimeError
            Before the first call, and for a second backward pass through one call [BN-ERR-4].
        """
        if self._saved is None:
            raise refusal(
                RuntimeError,
                "BN-ERR-4",
                got=f"{self.name}: backward without a forward pass of its own",
                expected="one backward after each call",
                do="Call the layer first; a call serves one backward.",
            )
        saved, comm = self._saved
        grads = batch_norm_vjp(dy, saved, comm)
        self._saved = None
        self.gradients = grads if self.trainable else Gradients(grads.x, None, None)
        return grads.x

    def train(self, mode: bool = True) -> Self:
        """Train, or not, where neither `training` nor a context decides; return the layer."""
        self._training_mode = bool(mode)
        return self

    def eval(self) -> Self:
        """The same as ``train(False)``."""
        return self.train(False)

    def config_for(self, x: Array, *, training: bool = True) -> BatchNormConfig:
        """Return the configuration with which this layer treats x."""
        axis = channel_axis_of(self._axis, self._data_format, getattr(x, "ndim", 2), self.dialect.axis)
        unused = BatchNormConfig(axis=axis, epsilon=1.0, decay=0.0, correction=0)
        axis = channel_axis(x, unused, self.name)
        return self._config(x.ndim, axis, dtype_name(x.dtype), sync=training and self._joins_ranks, training=training)

    def _config(self, rank: int, axis: int, dtype: str, *, sync: bool, training: bool = True) -> BatchNormConfig:
        fields = dict(self._fields)
        if not training:  # ghost groups exist only where the batch normalizes itself
            fields.pop("virtual_batch_size", None)
        return self.dialect.config(axis=axis, rank=rank, dtype=dtype, sync=sync, renorm=self.renorm, **fields)

    @property
    def _joins_ranks(self) -> bool:
        return self._comm is not None or self._sync_statistics is not None

    def _communicator(self) -> Communicator:
        if self._comm is None:
            assert self._sync_statistics is not None
            comm = get_communicator(self._sync_statistics)
            if comm.size == 1:
                warnings.warn(
                    f"{self.name}: sync_statistics={self._sync_statistics!r} with only one rank [BN-SYNC-1]",
                    stacklevel=3,
                )
            return comm
        return self._comm

    def _variables_for(self, x: Array, config: BatchNormConfig) -> tuple[Params, RunningState]:
        """The layer's variables, or those its first call will keep."""
        if self.params is not None and self.state is not None:
            return self.params, self.state
        channels = int(x.shape[config.axis])
        params, state = init(config, channels=channels, like=x)
        gamma, beta = self._initializers
        params = Params(
            initialize(gamma, 1.0, channels, x, "gamma_initializer") if config.scale else None,
            initialize(beta, 0.0, channels, x, "beta_initializer") if config.center else None,
        )
        if self._loaded is None:
            return params, state
        return self._fill(params, state, self._loaded)

    def _update(self, stats: Moments, config: BatchNormConfig) -> None:
        with _STATE:
            assert self.state is not None
            self.state = update_running(self.state, stats, config, name=self.name)

    def _check_update(self, ema_update: str) -> str:
        if ema_update not in EMA_UPDATES:
            raise refusal(
                ValueError,
                "BN-ERR-5",
                got=f"ema_update is {ema_update!r}",
                expected="one of " + ", ".join(map(repr, EMA_UPDATES)),
                do="`bnspec spec BN-UPD` describes each.",
            )
        return self.dialect.default_update if ema_update == "default" else ema_update

    def _check_sync(self, sync_statistics: str | None) -> str | None:
        if sync_statistics is None:
            return None
        if not isinstance(sync_statistics, str):
            raise refusal(
                TypeError,
                "BN-ERR-5",
                got=f"sync_statistics is {sync_statistics!r}",
                expected="None or the name of a communicator",
                do="Pass a communicator itself as comm=.",
            )
        known = self.dialect.communicators
        if known is not None and sync_statistics.lower() not in known:
            raise refusal(
                ValueError,
                "BN-ERR-5",
                got=f"sync_statistics={sync_statistics!r} under the {self.dialect.name} dialect",
                expected="None or one of " + ", ".join(map(repr, known)),
                do="The bnspec dialect takes every installed one.",
            )
        return sync_statistics.lower()

    def _update_mode(self, context: TrainingContext, explicit: bool, *, ghost: bool, sync: bool) -> str:
        """Who updates after this call: "internal", "collection" or, for nobody, "skip" [BN-UPD-1 to 7]."""
        mode = self._ema_update
        if mode == "collection" and (ghost or sync) and self.dialect.ghost_and_sync_update_inside:
            mode = "internal"
        replica = context.is_training and not context.is_main_training_tower
        if mode == "skip" or replica or _context.is_recomputing():
            return "skip"
        if mode == "collection" and not explicit:
            raise refusal(
                RuntimeError,
                "BN-UPD-3",
                got=f'{self.name}: ema_update="collection" outside a training context',
                expected="a collection to hand the update to",
                do="Wrap the step in `with bnspec.training_context() as context:` and call context.updates.run(), "
                'or use ema_update="internal".',
            )
        return mode
