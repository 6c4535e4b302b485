"""Batch normalization as a module of ``flax.linen``; `bnspec.linen` is its public name."""

from typing import Any

import jax.numpy as jnp
from flax import linen

import bnspec
from bnspec import BatchNormConfig, Renorm, Schedule
from bnspec._checks.arguments import channel_axis
from bnspec_backends.modules.jax_options import OPTIONS, configuration, fitted_mask, ranks_of, without_ghost

__all__ = ["BatchNorm"]


class BatchNorm(linen.BatchNorm):
    """Batch normalization as bnspec specifies it, as a ``flax.linen.BatchNorm`` with its arguments and variables.

    Variables go both ways between the two: ``params`` holds ``scale`` and ``bias``, ``batch_stats`` holds ``mean`` and
    ``var``, and only under options that need them ``count``, ``stddev``, ``renorm_mean`` and ``renorm_stddev``.

    Attributes
    ----------
    use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias, use_scale, bias_init, scale_init
        As in flax; momentum is the weight of the old value. `axis` is one axis.
    axis_name, axis_index_groups
        Ranks whose statistics are joined, by elements and not by ranks; groups work under every transformation.
    use_fast_variance, force_float32_reductions
        Taken and without effect: there is one variance, and statistics are never narrower than float32.
    virtual_batch_size, ghost_source, renorm, averaging, correction, sync_weighting, single_value, nonfinite
        As in `bnspec.BatchNormConfig`.

    Raises
    ------
    TypeError, ValueError
        For input and options that break a clause, which the text names.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> module = BatchNorm(use_running_average=False, epsilon=3.0, momentum=0.75)
    >>> x = jnp.asarray([[1.0], [3.0]])
    >>> variables = module.init(jax.random.key(0), x)
    >>> y, updates = module.apply(variables, x, mutable=["batch_stats"])
    >>> y.tolist(), updates["batch_stats"]["mean"].tolist()
    ([[-0.5], [0.5]], [0.5])
    """

    virtual_batch_size: int | None = None
    ghost_source: str = OPTIONS["ghost_source"]
    renorm: Renorm | None = None
    averaging: str = OPTIONS["averaging"]
    correction: int = OPTIONS["correction"]
    sync_weighting: str = OPTIONS["sync_weighting"]
    single_value: str = OPTIONS["single_value"]
    nonfinite: str = OPTIONS["nonfinite"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._configured()  # what excludes each other is refused where it is written
        ranks_of(self.axis_name, self.axis_index_groups)

    @linen.compact
    def __call__(
        self,
        x: Any,
        use_running_average: bool | None = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        schedule: Schedule | None = None,
    ) -> Any:
        """Normalize x, and update ``batch_stats`` where that collection is to change.

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
            x's shape; of `dtype`, or the dtype that x and the parameters promote to.
        """
        frozen = linen.merge_param("use_running_average", self.use_running_average, use_running_average)
        config, name, starting = self._configured(), self._title(), self.is_initializing()
        x = jnp.asarray(x)
        channels = x.shape[channel_axis(x, config, name)]
        scale, bias = (
            jnp.asarray(self.param(each, init, (channels,), self.param_dtype)) if wanted else None
            for each, init, wanted in (
                ("scale", self.scale_init, self.use_scale),
                ("bias", self.bias_init, self.use_bias),
            )
        )
        wide = not self.force_float32_reductions and jnp.dtype(self.param_dtype) == jnp.float64
        _, fresh = bnspec.init(config, channels=channels, like=jnp.zeros(0, jnp.float64 if wide else jnp.float32))
        held = {
            field: self.variable("batch_stats", field, lambda value=value: value)
            for field, value in fresh._asdict().items()
            if value is not None
        }
        given = [v for v in (scale, bias) if v is not None]
        dtype = linen.dtypes.canonicalize_dtype(x, *given, dtype=self.dtype)
        y, state = bnspec.apply(
            x.astype(jnp.promote_types(x.dtype, dtype)),
            bnspec.Params(scale, bias),
            bnspec.RunningState(**{field: jnp.asarray(v.value) for field, v in held.items()}),  # read from a file
            without_ghost(config) if starting else config,
            train=not frozen,
            mask=fitted_mask(mask, x, name),
            lengths=lengths,
            comm=None if starting else ranks_of(self.axis_name, self.axis_index_groups),
            schedule=schedule,
            name=name,
        )
        if not frozen and not starting:
            for field, variable in held.items():
                variable.value = getattr(state, field)
        return y.astype(dtype)

    def _configured(self) -> BatchNormConfig:
        options = tuple([getattr(self, name) for name in OPTIONS])
        axis: Any = tuple(self.axis) if isinstance(self.axis, list) else self.axis
        return configuration(axis, self.epsilon, self.momentum, self.use_scale, self.use_bias, options)

    def _title(self) -> str:
        return "/".join(self.path) or "BatchNorm"
