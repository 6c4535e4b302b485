"""Options that the modules for JAX's frameworks share, and what they do alike: configuration, axis, mask, ranks."""

import functools
from typing import Any

import jax.numpy as jnp

from bnspec import BatchNormConfig
from bnspec._errors import refusal
from bnspec_backends.ranks.axis import AxisCommunicator

__all__ = ["OPTIONS", "configuration", "fitted_mask", "ranks_of", "without_ghost"]

#: Options beyond the frameworks' own, with their defaults; each is a field of `bnspec.BatchNormConfig`.
OPTIONS: dict[str, Any] = {
    "virtual_batch_size": None,
    "ghost_source": "first",
    "renorm": None,
    "averaging": "exponential",
    "correction": 0,
    "sync_weighting": "count",
    "single_value": "raise",
    "nonfinite": "propagate",
}


@functools.lru_cache(maxsize=1024)
def configuration(
    axis: int, epsilon: float, decay: float, scale: bool, center: bool, options: tuple[Any, ...]
) -> BatchNormConfig:
    """Return the configuration of a module.

    Parameters
    ----------
    axis : int or sequence of one int
        Channel axis. The frameworks also take several, which bnspec's channels are not.
    epsilon, decay : float
        The frameworks' momentum weighs the old value, as decay does.
    scale, center : bool
        Whether gamma and beta exist.
    options : tuple
        Values of `OPTIONS`, in order.

    Raises
    ------
    ValueError, TypeError
        For values that a clause refuses, which the text names.

    Examples
    --------
    >>> configuration((-1,), 1e-5, 0.9, True, True, tuple(OPTIONS.values())).axis
    -1
    """
    if isinstance(axis, tuple | list):
        if len(axis) != 1:
            raise refusal(
                ValueError,
                "BN-SHAPE-2",
                got=f"axis={tuple(axis)}",
                expected="one channel axis",
                do="Reshape x, so that its channels are on one axis.",
            )
        axis = axis[0]
    given: dict[str, Any] = dict(zip(OPTIONS, options, strict=True))
    return BatchNormConfig(axis=axis, epsilon=epsilon, decay=decay, scale=scale, center=center, **given)


@functools.lru_cache(maxsize=1024)
def without_ghost(config: BatchNormConfig) -> BatchNormConfig:
    """Return the configuration for a call that only makes variables, whose batch may have any size."""
    given = {name: getattr(config, name) for name in OPTIONS} | {"virtual_batch_size": None}
    return configuration(config.axis, config.epsilon, config.decay, config.scale, config.center, tuple(given.values()))


def fitted_mask(mask: Any, x: Any, name: str) -> Any:
    """Return a mask as the frameworks read it: anything that counts as true, its last axis beside x's last.

    Examples
    --------
    >>> fitted_mask(jnp.asarray([[1], [0]]), jnp.ones((3, 2, 4)), "bn1").shape
    (1, 2, 1)
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask, dtype=bool)
    if mask.ndim > x.ndim or any(m not in (1, n) for m, n in zip(mask.shape[::-1], x.shape[::-1])):
        raise refusal(
            ValueError,
            "BN-MASK-7",
            got=f"{name}: a mask of shape {mask.shape} for x of shape {x.shape}",
            expected="a shape that broadcasts against x's, the last axes side by side",
            do="Give it x's rank, with extent 1 where one value serves all.",
        )
    return mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)


def ranks_of(axis_name: Any, axis_index_groups: Any) -> Any:
    """Return the `AxisCommunicator` of a module, or None where it has no axis."""
    if axis_name is not None:
        axis_name = tuple(axis_name) if isinstance(axis_name, list) else axis_name
        return AxisCommunicator(axis_name, axis_index_groups)
    if axis_index_groups is not None:
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got="axis_index_groups without axis_name",
            expected="both or neither",
            do="Name the axis whose indices they group.",
        )
    return None
