"""Options of a layer, and what follows from them at a call: configuration, variables, communicator, update mode."""

import warnings
from typing import Any

from bnspec import _context
from bnspec._checks.arguments import channel_axis
from bnspec._checks.scalars import plain
from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig, Renorm
from bnspec._context import TrainingContext
from bnspec._dialects import dialects
from bnspec._discovery import get_communicator
from bnspec._dtypes import dtype_name
from bnspec._errors import refusal
from bnspec._init import init
from bnspec._layer.eager import in_backward_of_torch, kept_tensors
from bnspec._layer.initializers import check_initializer, initialize
from bnspec._layer.options import EMA_UPDATES, channel_axis_of, from_aliases, is_channels_last, own_decay
from bnspec._layer.tape import Tape
from bnspec._layer.variables import StateDict
from bnspec._types import Array, Params, RunningState

__all__ = ["LayerConfig"]


class LayerConfig(StateDict):
    """The part of `BatchNorm` that reads its options."""

    training: bool | None
    _told: bool
    _axis: int | None
    _data_format: str | None
    _initializers: tuple[Any, Any]
    _ema_update: str
    _sync_statistics: str | None
    _comm: Communicator | None
    _configs: dict[tuple[int, str, bool], BatchNormConfig]

    def _configure(
        self,
        *,
        given: dict[str, Any],
        aliases: dict[str, Any],
        fields: dict[str, Any],
        dialect: str,
        renorm: Renorm | None,
        axis: int | None,
        data_format: str | None,
        comm: Communicator | None,
        ema_update: str,
        sync_statistics: str | None,
    ) -> None:
        """Take the constructor's arguments, and refuse what no call could use."""
        row, axis = dialects[dialect], plain(axis)
        own = from_aliases(given, own_decay(aliases, row), type(self).__name__)
        switches = {key: own[key] for key in ("decay", "center", "scale")}
        vars(self).update(  # past the checks of what may be set on a layer that is there
            dialect=row,
            renorm=renorm,
            params=None,
            state=None,
            gradients=None,
            _axis=axis,
            _data_format=data_format,
            _initializers=(own["gamma_initializer"], own["beta_initializer"]),
            _fields={key: value for key, value in (switches | fields).items() if value is not None},
            _comm=comm,
            _training_mode=True,
            _tape=Tape(),
            _told=False,
            _loaded=None,
            _configs={},
        )
        self.training = own["training"]
        self._ema_update = self._check_update(ema_update)
        self._sync_statistics = self._check_sync(sync_statistics)
        for what, initializer in zip(("gamma_initializer", "beta_initializer"), self._initializers, strict=True):
            check_initializer(initializer, what)
        if data_format is not None:
            is_channels_last(data_format)
        # A configuration nobody asks for at this rank; built so that a bad argument is refused here, not at the first
        # call. A negative axis waits for the call, where x's rank says what it means.
        rank = 4 if row.ranks is None else max(row.ranks)
        early = row.axis if axis is None or (isinstance(axis, int) and axis < 0) else axis
        self._config(rank, early, "float32", sync=False)
        if self._fields.get("virtual_batch_size") is not None and self._joins_ranks:
            row.check(rank=rank, axis=row.axis % rank, dtype="float32", ghost=True, sync=True)

    def config_for(self, x: Array, *, training: bool = True) -> BatchNormConfig:
        """Return the configuration with which this layer treats x; made once for each rank and dtype."""
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        if shape is None or dtype is None:
            return self._config_for(x, training=training)
        key = (len(shape), dtype_name(dtype), training)
        config = self._configs.get(key)
        if config is None or config.renorm is not self.renorm:  # its limits may be set between steps
            config = self._configs[key] = self._config_for(x, training=training)
        return config

    def _config_for(self, x: Array, *, training: bool) -> BatchNormConfig:
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
        with kept_tensors():
            params, state = init(config, channels=channels, like=x)
            gamma, beta = self._initializers
            params = Params(
                initialize(gamma, 1.0, channels, x, "gamma_initializer") if config.scale else None,
                initialize(beta, 0.0, channels, x, "beta_initializer") if config.center else None,
            )
            if self._loaded is not None:
                params, state = self._filled(params, state, self._loaded)
        return params if self.params is None else self.params, state if self.state is None else self.state

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

    def _update_mode(self, context: TrainingContext, explicit: bool, x: Array, *, ghost: bool, sync: bool) -> str:
        """Return who updates after this call: "internal", "collection" or, for nobody, "skip" [BN-UPD-1 to 7]."""
        mode = self._ema_update
        if mode == "collection" and (ghost or sync) and self.dialect.ghost_and_sync_update_inside:
            mode = "internal"
        replica = context.is_training and not context.is_main_training_tower
        if mode == "skip" or replica or _context.is_recomputing() or in_backward_of_torch(x):
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
