"""Batch normalization as a module of equinox; `bnspec.equinox` is its public name."""

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp

import bnspec
from bnspec import BatchNormConfig, Renorm, RunningState, Schedule
from bnspec._checks.scalars import switch
from bnspec._errors import refusal
from bnspec_backends.modules.jax_options import OPTIONS, configuration, fitted_mask, ranks_of

__all__ = ["BatchNorm"]


class BatchNorm(eqx.nn.BatchNorm):
    """Batch normalization as bnspec specifies it, as an ``equinox.nn.BatchNorm(mode="batch")``.

    Module and state hold what equinox's own hold, in the same order, so that ``equinox.tree_serialise_leaves`` of one
    is read into the other. As there, a call has one sample, inside of a `jax.vmap` over the batch with `axis_name`,
    over which statistics are joined exactly. With ``axis_name=None`` a call has the whole batch, (N, C, ...), and may
    divide it into ghost groups.

    Parameters
    ----------
    input_size : int
        C.
    axis_name : hashable or sequence of them, or None
        Axes of `jax.vmap`, `jax.pmap` or `jax.shard_map` over which the batch is spread.
    eps, channelwise_affine, momentum, inference, dtype
        As in equinox; momentum is the weight of the old value.
    mode : {"batch"}
        equinox's "ema" normalizes by the running statistics while it trains, which is another operation.
    averaging : {"debiased", "exponential"}
        "debiased" is equinox's; renorm needs "exponential".
    virtual_batch_size, ghost_source, renorm, correction, sync_weighting, single_value, nonfinite
        As in `bnspec.BatchNormConfig`. With one counter for all channels, nonfinite is not "skip" while debiased.

    Raises
    ------
    TypeError, ValueError
        For input and options that break a clause, which the text names.

    Notes
    -----
    The variance that equinox keeps starts at 1, and is divided by ``1 - momentum**t`` as if it had started at 0. The
    state is the same here, and is read as what it is: ``(hidden_var - momentum**t)/(1 - momentum**t)``. The two agree
    once ``momentum**t`` is small.

    Examples
    --------
    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> layer, state = eqx.nn.make_with_state(BatchNorm)(1, "batch", eps=3.0, momentum=0.75)
    >>> call = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    >>> y, state = call(jnp.asarray([[1.0], [3.0]]), state)
    >>> y.tolist()
    [[-0.5], [0.5]]
    >>> eqx.nn.inference_mode(layer)(jnp.asarray([4.0]), state)[0].round(5).tolist()      # mean 2, var 1
    [1.0]
    """

    renorm_index: eqx.nn.StateIndex | None
    options: tuple[Any, ...] = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        axis_name: Hashable | Sequence[Hashable] | None,
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        momentum: float = 0.99,
        inference: bool = False,
        dtype: Any = None,
        mode: Literal["batch"] = "batch",
        *,
        averaging: Literal["debiased", "exponential"] = "debiased",
        renorm: Renorm | None = None,
        **options: Any,
    ) -> None:
        if mode != "batch":
            raise refusal(
                ValueError,
                "BN-INF-1",
                got=f"mode={mode!r}",
                expected='mode="batch"',
                do="equinox's own layer has the other, which does not normalize by the batch.",
            )
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise refusal(
                TypeError,
                "BN-ERR-5",
                got=f"BatchNorm with {', '.join(unknown)}",
                expected="equinox's arguments, and of ours: " + ", ".join(sorted(OPTIONS)),
                do="Correct the name.",
            )
        # equinox insists on names, which its own call would need
        super().__init__(input_size, axis_name or (), eps, channelwise_affine, momentum, inference, dtype, mode="batch")
        self.axis_name = axis_name or ()
        chosen = OPTIONS | options | {"averaging": averaging, "renorm": renorm}
        self.options = tuple(chosen.values())
        self._check(chosen, ranks_of(axis_name, None) is not None)
        like = jnp.zeros(0, jnp.float32 if dtype is None else dtype)
        _, fresh = bnspec.init(self._configured(), channels=input_size, like=like)
        rest = tuple(v for v in fresh[3:] if v is not None)
        self.renorm_index = eqx.nn.StateIndex(rest) if rest else None

    def __call__(
        self,
        x: Any,
        state: eqx.nn.State,
        *,
        key: Any = None,
        inference: bool | None = None,
        mask: Any = None,
        schedule: Schedule | None = None,
    ) -> tuple[Any, eqx.nn.State]:
        """Normalize one sample among those of the axis, or a batch, and return the state after it.

        Parameters
        ----------
        x : array, shape (C, ...); (N, C, ...) where the module has no axis
        state : equinox.nn.State
        key : optional
            Ignored, as in equinox.
        inference : bool, optional
            Whether the running statistics are used; in the place of the module's own.
        mask : array, optional
            Broadcasts against x; elements where it is false enter no statistic [BN-MASK-1].
        schedule : Schedule, optional
            Limits of renorm and momentum (as ``decay``) for this call.

        Returns
        -------
        array, equinox.nn.State
            x's shape and dtype.
        """
        del key
        frozen = self.inference if inference is None else inference
        frozen = switch("inference", frozen, "BN-INF-2", "True uses the running statistics.")
        config, comm = self._configured(), ranks_of(self.axis_name or None, None)
        mask = fitted_mask(mask, x, "BatchNorm")
        if comm is not None:
            x, mask = x[None], None if mask is None else mask[None]
        if mask is not None and mask.shape[1] != 1 and config.counts_updates:
            raise refusal(
                ValueError,
                "BN-MASK-8",
                got=f"BatchNorm: a mask of shape {mask.shape}, with the channels' extent",
                expected="one counter's worth: extent 1 along the channel axis",
                do='Use averaging="exponential", which counts nothing.',
            )
        held = self._held(state, config)
        used = self._read(held, config) if frozen else held
        y, new = bnspec.apply(
            x,
            bnspec.Params(self.weight, self.bias),
            used,
            config,
            train=not frozen,
            mask=mask,
            comm=comm,
            schedule=schedule,
            name="BatchNorm",
        )
        if not frozen:
            state = self._kept(state, new)
        return (y if comm is None else y[0]), state

    def _held(self, state: eqx.nn.State, config: BatchNormConfig) -> RunningState:
        assert self.batch_state_index is not None
        mean, var = state.get(self.batch_state_index)
        held = RunningState(mean, var)
        if config.counts_updates:
            assert self.batch_counter is not None
            held = held._replace(count=jnp.broadcast_to(state.get(self.batch_counter), mean.shape))
        if self.renorm_index is not None:
            rest = iter(state.get(self.renorm_index))
            held = RunningState(*held[:3], *rest)
        return held

    def _read(self, held: RunningState, config: BatchNormConfig) -> RunningState:
        """Return the state that inference is to divide: without the 1 at which equinox's variance starts."""
        if config.averaging != "debiased":
            return held
        start = jnp.asarray(config.decay, held.var.dtype) ** held.count
        return held._replace(var=jnp.maximum(held.var - start, 0))

    def _kept(self, state: eqx.nn.State, new: RunningState) -> eqx.nn.State:
        assert self.batch_state_index is not None
        state = state.set(self.batch_state_index, (new.mean, new.var))
        if new.count is not None:
            assert self.batch_counter is not None
            counter = state.get(self.batch_counter)
            moved = jnp.any(new.count != counter)  # not where no sample counts
            state = state.set(self.batch_counter, jnp.where(moved, counter + 1, counter))  # weakly typed, as it was
        if self.renorm_index is not None:
            state = state.set(self.renorm_index, tuple(v for v in new[3:] if v is not None))
        return state

    def _configured(self) -> BatchNormConfig:
        affine = self.channelwise_affine
        return configuration(1, self.eps, self.momentum, affine, affine, self.options)

    def _check(self, chosen: dict[str, Any], by_samples: bool) -> None:
        """Refuse what a module of equinox has no place for."""
        config = self._configured()
        wrong = None
        if config.averaging not in ("debiased", "exponential"):
            wrong = ("BN-RUN-1", f"averaging={config.averaging!r}", 'averaging "debiased" or "exponential"')
        elif config.averaging == "debiased" and config.nonfinite == "skip":
            wrong = ("BN-RUN-10", 'nonfinite="skip" with averaging="debiased"', "one count for all channels")
        elif config.virtual_batch_size is not None and by_samples:
            wrong = ("BN-GRP-3", "virtual_batch_size with an axis_name", "axis_name=None, and batches of (N, C, ...)")
        if wrong is not None:
            raise refusal(ValueError, wrong[0], got=wrong[1], expected=wrong[2], do="Change one of the options.")
