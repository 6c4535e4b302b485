"""``haiku.BatchNorm`` as a subject.

Haiku creates parameters and running averages in the dtype of x and computes in it, so that is the dtype they are given
here. Its running state is an accumulator and a counter for mean and for variance, besides the debiased average that
inference reads; a state of no updates is the one that Haiku makes. Before the first update inference reads the
average of the batch that ``init`` was given; here that is zeros, as in most programs.
"""

from typing import Any

from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.subjects.frameworks.jax import jax_defaults as own
from bnspec_conformance.subjects.frameworks.jax.jax_common import (
    PROFILES_OF_LAYERS,
    RANKS,
    JaxLayer,
    LayerScope,
    dtypes,
)

__all__ = ["haiku"]


def haiku() -> JaxLayer:
    """``haiku.BatchNorm``."""
    import haiku as hk  # noqa: F401 - what is missing shows here and not in the first case

    scope = LayerScope(
        profiles=PROFILES_OF_LAYERS,
        dtypes=dtypes(),
        options={
            "correction": (0,),
            "averaging": ("debiased",),
            "nonfinite": ("propagate",),
            "sync_weighting": ("rank",),  # the mean of the ranks' means
        },
    )
    return JaxLayer("haiku", _apply, scope, ("dm-haiku",), "haiku", limit=_limit, defaults=own.haiku())


def _limit(case: Case) -> str | None:
    counts = set() if case.state is None or "count" not in case.state else set(case.state["count"].tolist())
    return "it has one counter for all channels" if len(counts) > 1 else None


def _apply(
    case: Case, x: Any, gamma: Any, beta: Any, state: dict[str, Any] | None, mask: Any
) -> tuple[Any, dict[str, Any]]:
    import haiku as hk
    import jax
    import jax.numpy as jnp

    config = case.config
    channels = config.axis % x.ndim

    def layer(x: Any, training: bool) -> Any:
        return hk.BatchNorm(
            create_scale=config.scale,
            create_offset=config.center,
            decay_rate=config.decay,
            eps=config.epsilon,
            axis=[a for a in range(x.ndim) if a != channels],  # those it reduces
            cross_replica_axis=RANKS if len(case.ranks) > 1 else None,
        )(x, is_training=training)

    transformed = hk.without_apply_rng(hk.transform_with_state(layer))
    made = transformed.init(jax.random.key(0), jnp.zeros_like(x), training=True)
    params, averages = map(hk.data_structures.to_mutable_dict, made)
    for name, value in (("scale", gamma), ("offset", beta)):
        if value is not None:
            _set(params, "batch_norm", name, value)
    for module, values in _averages(case).items():
        for name, value in values.items():
            _set(averages, f"batch_norm/~/{module}", name, value)
    y, new = transformed.apply(params, averages, x, training=case.mode == "batch")
    kept = {name: new[f"batch_norm/~/{name}_ema"]["hidden"].reshape(-1) for name in ("mean", "var")}
    return y, kept | {"count": new["batch_norm/~/mean_ema"]["counter"].repeat(case.channels)}


def _averages(case: Case) -> dict[str, dict[str, Array]]:
    """Return a running state as Haiku keeps it; empty for one without updates, which Haiku makes itself."""
    count = None if case.state is None else case.state.get("count")
    if case.state is None or count is None or not count.any():
        return {}
    debias = 1.0 - case.config.decay ** as_float64(count)
    return {
        f"{name}_ema": {
            "counter": count[0],
            "hidden": case.state[name],
            "average": (as_float64(case.state[name]) / debias).astype(case.state[name].dtype),
        }
        for name in ("mean", "var")
    }


def _set(variables: Any, module: str, name: str, value: Any) -> None:
    """Give one of the layer's own variables a value, in its own shape and dtype."""
    own = variables[module][name]
    variables[module][name] = value.reshape(own.shape).astype(own.dtype)
