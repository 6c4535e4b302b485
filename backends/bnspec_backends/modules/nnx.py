"""Batch normalization as a module of ``flax.nnx``; `bnspec.nnx` is its public name."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

import bnspec
from bnspec import BatchNormConfig, RunningState, Schedule
from bnspec._checks.scalars import switch
from bnspec_backends.modules.jax_options import OPTIONS, configuration, fitted_mask, ranks_of

__all__ = ["BatchNorm"]


class BatchNorm(nnx.BatchNorm):
    """Batch normalization as bnspec specifies it, as a ``flax.nnx.BatchNorm`` with its arguments and variables.

    States go both ways between the two: ``scale`` and ``bias`` are ``nnx.Param``, ``mean`` and ``var``
    ``nnx.BatchStat``; so are, only under options that need them, ``count``, ``stddev``, ``renorm_mean`` and
    ``renorm_stddev``.

    Parameters
    ----------
    num_features : int
        C, the length of the channel axis.
    rngs : nnx.Rngs
        For the initializers.
    **flax_and_ours
        use_running_average, axis, momentum (the weight of the old value), epsilon, dtype, param_dtype, use_bias,
        use_scale, bias_init, scale_init, axis_name, axis_index_groups, promote_dtype, bias_metadata and scale_metadata
        as in flax, use_fast_variance without effect; virtual_batch_size, ghost_source, renorm, averaging, correction,
        sync_weighting, single_value and nonfinite as in `bnspec.BatchNormConfig`. Statistics over `axis_name` are
        joined by elements and not by ranks.

    Raises
    ------
    TypeError, ValueError
        For input and options that break a clause, which the text names.

    Examples
    --------
    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> layer = BatchNorm(1, epsilon=3.0, momentum=0.75, rngs=nnx.Rngs(0))
    >>> layer(jnp.asarray([[1.0], [3.0]])).tolist(), layer.mean[...].tolist()
    ([[-0.5], [0.5]], [0.5])
    """

    def __init__(self, num_features: int, *, rngs: nnx.Rngs, **flax_and_ours: Any) -> None:
        options = OPTIONS | {name: flax_and_ours.pop(name) for name in OPTIONS if name in flax_and_ours}
        super().__init__(num_features, rngs=rngs, **flax_and_ours)
        for name, value in options.items():
            setattr(self, name, value)
        ranks_of(self.axis_name, self.axis_index_groups)
        _, fresh = bnspec.init(self._configured(), channels=num_features, like=self.mean[...])
        for field, value in fresh._asdict().items():
            if value is not None and field != "mean":
                setattr(self, field, nnx.BatchStat(value))

    def __call__(
        self,
        x: Any,
        use_running_average: bool | None = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        schedule: Schedule | None = None,
    ) -> Any:
        """Normalize x, and update the running statistics unless they are used.

        Parameters
        ----------
        x : array, shape (N, ..., C, ...)
        use_running_average : bool, optional
            Whether the running statistics are used; in the place of the module's own.
        mask : array, optional
            Broadcasts against x as in flax; elements where it is false enter no statistic [BN-MASK-1].
        lengths : array of int, shape (N,), optional
            Instead of a mask: elements of each sample that count [BN-MASK-9].
        schedule : Schedule, optional
            Limits of renorm and momentum (as ``decay``) for this call.

        Returns
        -------
        array
            x's shape; of `dtype`, or the dtype that x, the statistics and the parameters promote to.
        """
        frozen: Any = self.use_running_average if use_running_average is None else use_running_average
        frozen = switch("use_running_average", frozen, "BN-INF-2", "Say it in the call, or when the module is made.")
        config = self._configured()
        scale, bias = (None if v is None else v[...] for v in (self.scale, self.bias))
        held = {field: v for field in RunningState._fields if (v := getattr(self, field, None)) is not None}
        state = RunningState(**{field: jnp.asarray(v[...]) for field, v in held.items()})
        promoted: Any = self.promote_dtype((x, state.mean, state.var, scale, bias), dtype=self.dtype)
        wide, _, _, scale, bias = promoted  # statistics are not narrowed with the rest
        y, new = bnspec.apply(
            wide,
            bnspec.Params(scale, bias),
            state,
            config,
            train=not frozen,
            mask=fitted_mask(mask, wide, "BatchNorm"),
            lengths=lengths,
            comm=ranks_of(self.axis_name, self.axis_index_groups),
            schedule=schedule,
            name="BatchNorm",
        )
        if not frozen:
            for field, variable in held.items():
                variable[...] = getattr(new, field)
        return y if self.dtype is None else jnp.asarray(y, self.dtype)

    def _configured(self) -> BatchNormConfig:
        options = tuple([getattr(self, name) for name in OPTIONS])
        axis: Any = tuple(self.axis) if isinstance(self.axis, list) else self.axis
        return configuration(axis, self.epsilon, self.momentum, self.use_scale, self.use_bias, options)
