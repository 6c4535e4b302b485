"""The defaults of the layers of the JAX world, for the probe: Flax (linen and nnx), Haiku and Equinox."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.contract import NotSupported
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["equinox", "haiku", "linen", "nnx"]

_MARKS = {"gamma": 2.0, "beta": 3.0, "mean": 5.0, "var": 7.0, "count": 11.0}
_EMPTY = {"state, empty batch": "not finite"}


def linen(*, fast: bool) -> Defaults:
    """``flax.linen.BatchNorm``."""
    return Defaults(step=_linen, names=_linen_names, departures=_of_flax(fast), arguments=_passes(fast))


def nnx(*, fast: bool) -> Defaults:
    """``flax.nnx.BatchNorm``, which casts the running statistics to its dtype in inference."""
    cast = {f"centre in inference ({d} x)": d for d in ("float16", "bfloat16")}
    return Defaults(step=_nnx, names=_nnx_names, departures=_of_flax(fast) | cast, arguments=_passes(fast))


def haiku() -> Defaults:
    """``haiku.BatchNorm``: everything in the dtype of x, and the variance as E[x^2] - E[x]^2."""
    departures = _EMPTY | {"counter, empty batch": "counted"} | _of_one_pass() | _of_16_bits()
    return Defaults(step=_haiku, momentum="decay_rate", names=_haiku_names, departures=departures)


def equinox(mode: str) -> Defaults:
    """``equinox.nn.BatchNorm``; "ema" is its default, under the name of "legacy" and with a warning."""
    departures = _EMPTY | _of_16_bits()
    if mode == "ema":
        departures |= {
            "training normalizes by": "the updated running statistics",
            "variance that normalizes": "the running one",
            "one value, with a state": "accepted, y by the updated running statistics",
        }
        return Defaults(step=functools.partial(_equinox, mode=mode), names=_equinox_names, departures=departures)
    departures |= {"debiased averages start at": "mean 0, var 1", "counter, empty batch": "counted"}
    return Defaults(
        step=functools.partial(_equinox, mode=mode),
        names=_equinox_names,
        departures=departures,
        arguments={"mode": mode},
    )


def _of_flax(fast: bool) -> dict[str, str]:
    departures = _EMPTY | {"state, all masked": "not finite"}
    return departures | (_of_one_pass() if fast else {})


def _passes(fast: bool) -> dict[str, Any]:
    return {} if fast else {"use_fast_variance": False}


def _of_one_pass() -> dict[str, str]:
    from bnspec_conformance.subjects.frameworks.jax.jax_common import dtypes

    wide = [d for d in dtypes() if d in ("float32", "float64")]
    return {f"variance ({d} x)": f"E[x^2] - E[x]^2 in {d}" for d in wide}


def _of_16_bits() -> dict[str, str]:
    narrow = ("float16", "bfloat16")
    departures = {f"{what} ({d} x)": d for what in ("centre", "centre in inference", "state") for d in narrow}
    return departures | {"sums (float16 x)": "float16"}


def _linen(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    import flax.linen
    import jax

    x = np.array(case.ranks[0].x)
    layer = flax.linen.BatchNorm(axis=case.config.axis, **arguments)
    variables = layer.init(jax.random.key(0), x, use_running_average=True)
    params = dict(variables["params"]) | _given(case, "scale", "bias")
    stats = dict(variables["batch_stats"]) | _state(case)
    y, new = layer.apply(
        {"params": params, "batch_stats": stats}, x, use_running_average=case.mode != "batch", mutable=["batch_stats"]
    )
    return np.array(y), _taken(case, dict(new["batch_stats"]))


def _linen_names() -> dict[str, str]:
    import flax.linen
    import jax

    x = np.zeros((3, 2), "float32")
    made = flax.linen.BatchNorm().init(jax.random.key(0), x, use_running_average=True)
    state = {"mean": np.full(2, 5.0, "float32"), "var": np.full(2, 7.0, "float32")}
    variables = {"params": {"scale": np.full(2, 2.0), "bias": np.full(2, 3.0)}, "batch_stats": state}
    assert {k: set(v) for k, v in made.items()} == {k: set(v) for k, v in variables.items()}, "what the layer makes"
    return names_by_value({name: v for each in variables.values() for name, v in each.items()}, _MARKS)


def _nnx(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    from flax import nnx

    layer = nnx.BatchNorm(case.channels, axis=case.config.axis, rngs=nnx.Rngs(0), **arguments)
    for name, value in (_given(case, "scale", "bias") | _state(case)).items():
        getattr(layer, name).set_value(value)
    y = layer(np.array(case.ranks[0].x), use_running_average=case.mode != "batch")
    return np.array(y), _taken(case, {"mean": layer.mean.get_value(), "var": layer.var.get_value()})


def _nnx_names() -> dict[str, str]:
    from flax import nnx

    layer = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    for held, mark in zip((layer.scale, layer.bias, layer.mean, layer.var), _MARKS.values()):
        held.set_value(np.full(2, mark, "float32"))
    return names_by_value({"/".join(map(str, k)): np.array(v) for k, v in _leaves(layer)}, _MARKS)


def _leaves(layer: Any) -> Any:
    from flax import nnx

    return [(path, variable.get_value()) for path, variable in nnx.to_flat_state(nnx.state(layer))]


def _haiku(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    """Refuse: the decay has no default, so a step that moves the state needs one."""
    import haiku as hk
    import jax

    if case.state is not None and "decay_rate" not in arguments:
        raise NotSupported("decay_rate has no default")
    x = np.array(case.ranks[0].x)
    channels = case.config.axis % x.ndim
    options = {"decay_rate": 0.5, "axis": [a for a in range(x.ndim) if a != channels], **arguments}

    def layer(x: Any) -> Any:
        return hk.BatchNorm(True, True, **options)(x, is_training=case.mode == "batch")

    transformed = hk.without_apply_rng(hk.transform_with_state(layer))
    params, averages = transformed.init(jax.random.key(0), x)
    averages = hk.data_structures.to_mutable_dict(averages)
    if case.state is not None:
        for name in ("mean", "var"):
            own = averages[f"batch_norm/~/{name}_ema"]
            own["hidden"] = case.state[name].reshape(own["hidden"].shape).astype(own["hidden"].dtype)
    y, new = transformed.apply(params, averages, x)
    kept = {name: np.array(new[f"batch_norm/~/{name}_ema"]["hidden"]).reshape(-1) for name in ("mean", "var")}
    return np.array(y), None if case.state is None else kept


def _haiku_names() -> dict[str, str]:
    """By their paths below the layer; each of the two averages has a counter, so that no single variable counts."""
    import haiku as hk
    import jax

    transformed = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.5)(x, is_training=True))
    params, averages = map(hk.data_structures.to_mutable_dict, transformed.init(jax.random.key(0), np.zeros((3, 2))))
    params["batch_norm"] |= {"scale": np.full((1, 2), 2.0), "offset": np.full((1, 2), 3.0)}
    for name, mark in (("mean", 5.0), ("var", 7.0)):
        averages[f"batch_norm/~/{name}_ema"] |= {"hidden": np.full((1, 2), mark), "counter": np.array(11)}
    held = {f"{module}/{name}": v for module, each in (params | averages).items() for name, v in each.items()}
    below = {name.removeprefix("batch_norm/").removeprefix("~/"): np.array(v) for name, v in held.items()}
    return names_by_value(below, _MARKS)


def _equinox(case: Case, arguments: Mapping[str, Any], *, mode: str) -> tuple[Array, dict[str, Array] | None]:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    layer, own = eqx.nn.make_with_state(eqx.nn.BatchNorm)(case.channels, "samples", **arguments)
    index = layer.ema_state_index if mode == "ema" else layer.batch_state_index
    kept = own.get(index)[0].dtype  # x of another dtype is refused
    if case.state is not None:
        if mode == "ema":
            own = own.set(layer.ema_first_time_index, jnp.array(False))
        own = own.set(index, tuple(jnp.array(case.state[name], kept) for name in ("mean", "var")))

    def one(sample: Any, own: Any) -> Any:
        return layer(sample, own, inference=case.mode != "batch")

    mapped = jax.vmap(one, in_axes=(0, None), out_axes=(0, None), axis_name="samples")
    y, own = mapped(jnp.array(case.ranks[0].x, kept), own)
    return np.array(y), _taken(case, dict(zip(("mean", "var"), own.get(index))))


def _equinox_names() -> dict[str, str]:
    """Of the layer's arrays; the running state is reached by an index and has no names."""
    import equinox as eqx

    layer, _ = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "samples", mode="batch")
    layer = eqx.tree_at(lambda of: (of.weight, of.bias), layer, (np.full(2, 2.0), np.full(2, 3.0)))
    arrays = {name: np.asarray(v) for name, v in vars(layer).items() if isinstance(v, np.ndarray)}
    return names_by_value(arrays, _MARKS)


def _given(case: Case, gamma: str, beta: str) -> dict[str, Array]:
    return {name: v for name, v in ((gamma, case.gamma), (beta, case.beta)) if v is not None}


def _state(case: Case) -> dict[str, Array]:
    return {} if case.state is None else {name: case.state[name] for name in ("mean", "var")}


def _taken(case: Case, state: dict[str, Any]) -> dict[str, Array] | None:
    return None if case.state is None else {name: np.array(v) for name, v in state.items()}
