"""Folding: normalization by running statistics as an affine map (SPEC.md, "Inference and frozen statistics").

    y = gamma * (x - mean)/sqrt(var + epsilon) + beta = x*scale + shift

    scale = gamma / sqrt(var + epsilon),    shift = beta - mean*scale

References
----------
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018,
section 3.2 (eq. 14).
"""

from typing import Any, NamedTuple

from bnspec._arrays import array_namespace, on_device_of
from bnspec._checks import arguments, records
from bnspec._config import BatchNormConfig
from bnspec._errors import refusal
from bnspec._float64 import in_float64, rounded_to
from bnspec._running import used_statistics
from bnspec._types import Array, Params, RunningState

__all__ = ["Affine", "affine_in_float64", "fold", "refuse_unbounded"]


class Affine(NamedTuple):
    """Affine map of each channel, ``y = x*scale + shift``, and what rounding its numbers changed.

    Beside what the evaluation itself rounds, y differs by at most ``abs(x)*scale_error + shift_error`` from the exact
    map. Where abs(mean) is many deviations, both terms nearly cancel in y and the errors do not: (x - mean) keeps more.
    """

    scale: Array  # shape (C,), the state's dtype
    shift: Array  # shape (C,), the state's dtype
    scale_error: Any  # shape (C,), NumPy's float64: |scale - its exact value|
    shift_error: Any  # shape (C,), NumPy's float64


@on_device_of("state")
def fold(params: Params, state: RunningState, config: BatchNormConfig, *, name: str = "batch_norm") -> Affine:
    """Return the affine map that inference by running statistics is.

    ::

        scale = gamma / sqrt(var + epsilon)
        shift = beta - mean*scale

    Parameters
    ----------
    params : Params
        gamma and beta, shape (C,), of any floating dtype; an absent one is 1 or 0.
    state : RunningState
        Its statistics, debiased where the averaging asks for it.
    config : BatchNormConfig
        Its epsilon, averaging, center and scale apply. The map is that of each channel, on whatever axis they are.
    name : str
        The layer's name, for error texts.

    Returns
    -------
    Affine
        Computed in float64 and rounded once to the state's dtype, with the errors that this rounding causes.

    Raises
    ------
    TypeError, ValueError
        For parameters and a state that break a clause, and where scale or shift is not finite [BN-INF-1].
    RuntimeError
        Inside of a transformation, such as `jax.jit` [BN-DET-3].

    See Also
    --------
    fold_into_preceding, fold_into_following : the same within the kernel of a convolution or linear layer.

    References
    ----------
    Ioffe, Szegedy 2015, algorithm 2, line 11; Jacob et al. 2018, eq. 14.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> state = state._replace(mean=np.asarray([1.0]), var=np.asarray([3.0]))
    >>> folded = bnspec.fold(params, state, config)
    >>> folded.scale.tolist(), folded.shift.tolist(), folded.shift_error.tolist()
    ([0.5], [-0.5], [0.0])
    """
    scale, shift = affine_in_float64(params, state, config, name)
    (one, scale_error), (other, shift_error) = rounded_to(scale, state.mean), rounded_to(shift, state.mean)
    refuse_unbounded("scale and shift", scale_error + shift_error, str(state.mean.dtype), name)
    return Affine(one, other, scale_error, shift_error)


def affine_in_float64(params: Params, state: RunningState, config: BatchNormConfig, name: str) -> tuple[Any, Any]:
    """Return scale and shift of shape (C,) as NumPy's float64, and refuse those that are not finite."""
    arguments.statistics(state, config, name)
    records.params(state.mean, 0, params, config, name)
    fields = {k: v for k, v in state._asdict().items() if k in ("mean", "var")}
    wide = {k: in_float64(f"{name}: state.{k}", v) for k, v in fields.items()}
    count = None if state.count is None else in_float64(f"{name}: state.count", state.count)
    mean, var = used_statistics(RunningState(wide["mean"], wide["var"], count), config)
    xp = array_namespace(mean)
    gamma, beta = (None if v is None else in_float64(f"{name}: {k}", v) for k, v in params._asdict().items())
    deviation = xp.sqrt(var + config.epsilon)
    deviation = xp.where(deviation > 0, deviation, xp.full_like(deviation, float("nan")))  # and no warning of NumPy's
    scale = (xp.ones_like(var) if gamma is None else gamma) / deviation
    shift = -(mean * scale) if beta is None else beta - mean * scale
    refuse_unbounded("scale and shift", scale + shift, "float64", name)
    return scale, shift


def refuse_unbounded(what: str, of_channels: Any, dtype: str, name: str) -> None:
    """Refuse what is not finite in some channels, shape (C,), of NumPy."""
    xp = array_namespace(of_channels)
    if bad := [c for c, ok in enumerate(xp.isfinite(of_channels).tolist()) if not ok]:
        raise refusal(
            ValueError,
            "BN-INF-1",
            got=f"{name}: {what} that are not finite in {dtype}, in channels {bad}",
            expected="finite numbers",
            do="Look for a variance and epsilon of 0, for NaN in the statistics, and at what the dtype can hold.",
        )
