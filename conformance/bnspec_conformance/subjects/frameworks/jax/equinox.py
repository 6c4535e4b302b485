"""``equinox.nn.BatchNorm`` as a subject, in both of its modes.

The layer takes one sample, channels first, inside a `jax.vmap` over the batch. ``channelwise_affine`` makes weight and
bias together or neither. Parameters and running statistics have the dtype of x, as its argument ``dtype`` sets it: with
another dtype than x's, mode "ema" raises.

Mode "ema" (`ema`) is by its own documentation no batch normalization once it has a running state: in training it
normalizes by the running statistics *after* their update, so y is right only for the first call of a new layer, which
fills them with the batch's. Its running statistics follow the "exponential" rule from then on. The clauses on y and its
derivatives fail for every case that brings a state; that is what this mode computes, and what its name stands for.

Mode "batch" (`batch`) normalizes by the batch and keeps the "debiased" running state. A state of no updates is the one
that Equinox makes, with accumulators 0 for the mean and 1 for the variance.
"""

from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Case
from bnspec_conformance.subjects.frameworks.jax import jax_defaults as defaults
from bnspec_conformance.subjects.frameworks.jax.jax_common import (
    PROFILES_OF_LAYERS,
    RANKS,
    JaxLayer,
    LayerScope,
    dtypes,
)

__all__ = ["batch", "ema"]

_SAMPLES = "samples"


def ema() -> JaxLayer:
    """``equinox.nn.BatchNorm(mode="ema")``, its default."""
    import equinox  # noqa: F401 - what is missing shows here and not in the first case

    return JaxLayer(
        "equinox-ema",
        _ema,
        _scope("exponential"),
        ("equinox",),
        "equinox",
        limit=_limit,
        defaults=defaults.equinox("ema"),
    )


def batch() -> JaxLayer:
    """``equinox.nn.BatchNorm(mode="batch")``."""
    import equinox  # noqa: F401

    return JaxLayer(
        "equinox-batch",
        _batch,
        _scope("debiased"),
        ("equinox",),
        None,
        limit=_limit,
        defaults=defaults.equinox("batch"),
    )


def _scope(averaging: str) -> LayerScope:
    return LayerScope(
        profiles=PROFILES_OF_LAYERS,
        dtypes=dtypes(),
        axes="first",
        affine="together",
        options={
            "correction": (0,),
            "averaging": (averaging,),
            "nonfinite": ("propagate",),
            "sync_weighting": ("rank",),  # the mean of the ranks' means; ranks of one shape have equal counts
        },
    )


def _limit(case: Case) -> str | None:
    counts = set() if case.state is None or "count" not in case.state else set(case.state["count"].tolist())
    return "it has one counter for all channels" if len(counts) > 1 else None


def _ema(
    case: Case, x: Any, gamma: Any, beta: Any, state: dict[str, Any] | None, mask: Any
) -> tuple[Any, dict[str, Any]]:
    import jax.numpy as jnp

    layer, own = _layer(case, x, gamma, beta, "ema")
    if state is not None:
        own = own.set(layer.ema_first_time_index, jnp.array(False))
        own = own.set(layer.ema_state_index, tuple(state[name].astype(x.dtype) for name in ("mean", "var")))
    y, own = _map(case, layer, x, own)
    mean, var = own.get(layer.ema_state_index)
    return y, {"mean": mean, "var": var}


def _batch(
    case: Case, x: Any, gamma: Any, beta: Any, state: dict[str, Any] | None, mask: Any
) -> tuple[Any, dict[str, Any]]:
    import jax.numpy as jnp

    layer, own = _layer(case, x, gamma, beta, "batch")
    updates = 0 if case.state is None or "count" not in case.state else int(np.max(case.state["count"], initial=0))
    if state is not None and updates:
        own = own.set(layer.batch_counter, jnp.array(updates))
        own = own.set(layer.batch_state_index, tuple(state[name].astype(x.dtype) for name in ("mean", "var")))
    y, own = _map(case, layer, x, own)
    mean, var = own.get(layer.batch_state_index)
    return y, {"mean": mean, "var": var, "count": own.get(layer.batch_counter).repeat(case.channels)}


def _layer(case: Case, x: Any, gamma: Any, beta: Any, mode: str) -> tuple[Any, Any]:
    """Return a new layer with the case's parameters, and the state that Equinox makes for it."""
    import equinox as eqx

    config = case.config
    layer, own = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        case.channels,
        axis_name=(_SAMPLES, RANKS) if len(case.ranks) > 1 else _SAMPLES,
        eps=config.epsilon,
        channelwise_affine=config.scale,
        momentum=config.decay,
        dtype=x.dtype,
        mode=mode,
    )
    if config.scale:
        layer = eqx.tree_at(lambda made: (made.weight, made.bias), layer, (gamma.astype(x.dtype), beta.astype(x.dtype)))
    return layer, own


def _map(case: Case, layer: Any, x: Any, own: Any) -> tuple[Any, Any]:
    import jax

    def one(sample: Any, own: Any) -> Any:
        return layer(sample, own, inference=case.mode == "inference")

    made: tuple[Any, Any] = jax.vmap(one, in_axes=(0, None), out_axes=(0, None), axis_name=_SAMPLES)(x, own)
    return made
