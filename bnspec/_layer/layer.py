"""The layer: what holds parameters and state and composes the functions (SPEC.md, "Update timing").

`BatchNorm` has the arguments, defaults and variable names of tensorpack's layer of that name, for eager
arrays of any library and any rank. All maths is in the functions; a layer decides which of them run.
"""

import functools
from typing import Any, Self

from bnspec import _context
from bnspec._arrays import stop_gradient
from bnspec._batch_norm import batch_norm, batch_norm_inference
from bnspec._checks.scalars import switch
from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig, Renorm
from bnspec._context import TrainingContext
from bnspec._derivatives import batch_norm_vjp
from bnspec._layer.attributes import Attributes
from bnspec._layer.configuration import LayerConfig
from bnspec._layer.eager import gradients_by_torch, kept_tensors, refuse_transformation, warn_untrained
from bnspec._layer.options import only_keywords
from bnspec._layer.tape import Call, Tape
from bnspec._locks import LAYERS
from bnspec._types import Array, Gradients, Moments, Params, RunningState
from bnspec._update import update_running

__all__ = ["BatchNorm"]


class BatchNorm(Attributes, LayerConfig):
    """Batch normalization as a layer, with tensorpack's options.

    Variables are made at the first call, for the channels, library, device and dtype of its input.

    Parameters
    ----------
    axis : int, optional
        Channel axis; by default axis 1 for rank 2, else what `data_format` says. By keyword only, as all arguments:
        the number of channels is no argument, it is learned at the first call.
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
        The one who updates the running state: the call itself ("internal"), the caller later by
        ``context.updates.run()`` ("collection"), nobody ("skip"). "default" is "internal", and under the
        tensorpack dialect "collection".
    sync_statistics : str, optional
        Join the statistics of all ranks of the communicator of that name: "threads", "mpi", "nccl", "torch";
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
        gamma and beta; may be replaced, for example by an optimizer, which may also write into the arrays.
    state : RunningState or None
        The running state; every update replaces it.
    gradients : Gradients or None
        Result of the last `backward`.
    training, trainable, name
        As given; may be set between calls. Every other option is read at construction only, and refused afterwards.

    Notes
    -----
    A layer is for arrays that have values. Inside `jax.jit`, `torch.func` and the like it is refused; the functions
    `batch_norm` and `update_running` are what such code calls.

    To torch it is no module, as `bnspec.torch.BatchNorm` is one: assigned to a `torch.nn.Module` it is no part of
    ``parameters()``, ``state_dict()``, ``to()`` or ``eval()``. To train gamma and beta by an optimizer of torch,
    replace `params` by parameters and hand them to it:
    ``layer.params = bnspec.Params(*map(torch.nn.Parameter, layer.params))``. A layer that is trained and whose gamma
    and beta torch does not differentiate says so once, by an UntrainedParametersWarning.

    A batch is kept only from a training call to its `backward`, and not where torch records the graph, in inference or
    where torch was told to want no gradient: there x must be held by the caller until `backward`. Copies and pickles
    carry no batch and no gradients. Copies share the communicator, which a pickle refuses to hold; by its name
    (`sync_statistics`) it is found again.

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
        *positional: Any,
        axis: int | None = None,
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
        only_keywords(type(self).__name__, positional)
        self._configure(
            given={
                "decay": decay,
                "center": center,
                "scale": scale,
                "beta_initializer": beta_initializer,
                "gamma_initializer": gamma_initializer,
                "training": training,
            },
            aliases=aliases,
            fields={
                "epsilon": epsilon,
                "virtual_batch_size": virtual_batch_size,
                "correction": correction,
                "averaging": averaging,
                "ghost_source": ghost_source,
                "sync_weighting": sync_weighting,
                "single_value": single_value,
                "nonfinite": nonfinite,
            },
            dialect=dialect,
            renorm=renorm,
            axis=axis,
            data_format=data_format,
            comm=comm,
            ema_update=ema_update,
            sync_statistics=sync_statistics,
        )
        self.name, self.trainable = name, trainable

    def __call__(self, x: Array, *, mask: Array | None = None, lengths: Array | None = None) -> Array:
        """Normalize x, and update the running state as `ema_update` says.

        Parameters
        ----------
        x : array, shape (N, ..., C, ...)
            float16, bfloat16, float32 or float64.
        mask, lengths : array, optional
            Elements that count, as in `batch_norm`; without effect on running statistics [BN-INF-2].

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
        training = context.is_training if self.training is None else self.training
        sync = training and self._joins_ranks
        config = self.config_for(x, training=training)
        refuse_transformation(self.name, x, mask, lengths)
        params, state = self._variables_for(x, config)
        used = params
        if not self.trainable:  # a constant also to the library's own differentiation [BN-INF-6]
            used = Params(*(v if v is None else stop_gradient(v) for v in params))
        if not training:
            y, saved = batch_norm_inference(x, used, state, config, name=self.name)
            if explicit is not None and context.is_main_training_tower:  # never outside of a context
                _context.warn_frozen(self.name)
            due = explicit is not None and context.is_training and not gradients_by_torch(y)
            call = Call.of(saved, None, due=due, trainable=self.trainable)
            self._keep(params, state, call)
            return y

        mode = self._update_mode(
            context, explicit is not None, x, ghost=config.virtual_batch_size is not None, sync=sync
        )
        comm = self._communicator() if sync else None
        y, stats, saved = batch_norm(
            x, used, config, state=state, mask=mask, lengths=lengths, comm=comm, name=self.name
        )
        due = not gradients_by_torch(y)
        call = Call.of(saved, comm, due=due, trainable=self.trainable, mask=mask, lengths=lengths)
        if self.trainable and not self._told:
            first = self.params is None
            vars(self).update(_told=warn_untrained(self.name, y, params, first))
        stats = Moments(*map(stop_gradient, stats))  # an update that waits must not keep the graph of its batch
        with LAYERS.held():
            if mode == "internal":  # against the state as it is now: another thread may have moved it since
                current = state if self.state is None else self.state
                state = self._updated(current, stats, config)
                vars(self).update(state=state)
            self._keep(params, state, call)
        if mode == "collection":
            context.updates.add(functools.partial(self._update, stats, config))
        return y

    def _keep(self, params: Params, state: RunningState, call: Call) -> None:
        """Keep what backward needs, and the variables if this call made them; never write back what it only read."""
        with LAYERS.held():
            vars(self).update(
                params=params if self.params is None else self.params,
                state=state if self.state is None else self.state,
                _tape=self._tape.after(call, repeated=_context.is_recomputing()),
                _loaded=None,
            )

    def backward(self, dy: Array) -> Array:
        """Return dx of the call since the last backward, and keep all gradients in ``layer.gradients``.

        Parameters
        ----------
        dy : array
            Of y's shape.

        Raises
        ------
        RuntimeError
            Before the first call, for a second backward pass through one call, after several calls, of which it could
            be meant for any, and where the layer kept no batch and the caller did not either [BN-ERR-4].
        """
        tape = self._tape
        saved, comm = tape.answer(self.name, self.trainable)
        grads = batch_norm_vjp(dy, saved, comm=comm)
        kept = grads if self.trainable else Gradients(grads.x, None, None)
        with LAYERS.held():
            same = self._tape.mark is tape.mark  # else another thread has called since
            vars(self).update(gradients=kept, _tape=Tape() if same else self._tape)
        return grads.x

    def forget(self) -> Self:
        """Drop the calls that no backward is to answer, with what is kept of their batches; return the layer."""
        kept = self.gradients
        with LAYERS.held():
            vars(self).update(_tape=Tape(), gradients=None if kept is None else kept._replace(x=None))
        return self

    def train(self, mode: bool = True) -> Self:
        """Train, or not, where neither `training` nor a context decides; forget calls before; return the layer."""
        self._training_mode = switch(
            "mode", mode, "BN-UPD-7", "True to train, False to normalize by running statistics."
        )
        return self.forget()

    def eval(self) -> Self:
        """The same as ``train(False)``."""
        return self.train(False)

    def _update(self, stats: Moments, config: BatchNormConfig) -> None:
        with LAYERS.held():
            assert self.state is not None
            vars(self).update(state=self._updated(self.state, stats, config))

    def _updated(self, state: RunningState, stats: Moments, config: BatchNormConfig) -> RunningState:
        with kept_tensors():
            return update_running(state, stats, config, name=self.name)
