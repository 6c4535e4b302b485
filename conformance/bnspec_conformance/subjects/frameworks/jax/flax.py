"""``flax.linen.BatchNorm`` and ``flax.nnx.BatchNorm`` as subjects.

Both take ``dtype=x.dtype``, which their documentation calls the dtype of the result; parameters and running
statistics keep the dtype that the case gives them. The layers' default is ``use_fast_variance=True``, the variance as
E[x^2] - E[x]^2; the subjects with two passes switch it off.
"""

import functools
from typing import Any

from bnspec_conformance.cases.case import Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.frameworks.jax import jax_defaults as own
from bnspec_conformance.subjects.frameworks.jax.jax_common import (
    PROFILES_OF_LAYERS,
    RANKS,
    JaxLayer,
    LayerScope,
    dtypes,
)

__all__ = ["linen", "linen_two_pass", "nnx", "nnx_two_pass"]


def linen() -> JaxLayer:
    """``flax.linen.BatchNorm`` as it comes."""
    import flax.linen  # noqa: F401 - what is missing shows here and not in the first case

    return _subject("flax-linen", functools.partial(_linen, fast=True), own.linen(fast=True))


def linen_two_pass() -> JaxLayer:
    """``flax.linen.BatchNorm`` with ``use_fast_variance=False``."""
    import flax.linen  # noqa: F401

    return _subject("flax-linen-two-pass", functools.partial(_linen, fast=False), own.linen(fast=False))


def nnx() -> JaxLayer:
    """``flax.nnx.BatchNorm`` as it comes."""
    import flax.nnx  # noqa: F401

    return _subject("flax-nnx", functools.partial(_nnx, fast=True), own.nnx(fast=True))


def nnx_two_pass() -> JaxLayer:
    """``flax.nnx.BatchNorm`` with ``use_fast_variance=False``."""
    import flax.nnx  # noqa: F401

    return _subject("flax-nnx-two-pass", functools.partial(_nnx, fast=False), own.nnx(fast=False))


def _subject(name: str, apply: Any, defaults: Defaults) -> JaxLayer:
    scope = LayerScope(
        profiles=PROFILES_OF_LAYERS | {"mask"},
        dtypes=dtypes(),
        options={
            "correction": (0,),
            "averaging": ("exponential",),
            "nonfinite": ("propagate",),
            "sync_weighting": ("rank",),  # the mean of the ranks' means
        },
    )
    return JaxLayer(name, apply, scope, ("flax",), "flax", defaults=defaults)


def _linen(
    case: Case, x: Any, gamma: Any, beta: Any, state: dict[str, Any] | None, mask: Any, *, fast: bool
) -> tuple[Any, dict[str, Any]]:
    import flax.linen
    import jax

    layer = flax.linen.BatchNorm(**_arguments(case, x, fast))
    inference = case.mode == "inference"
    variables = layer.init(jax.random.key(0), x, use_running_average=True)
    params = {name: value for name, value in (("scale", gamma), ("bias", beta)) if value is not None}
    assert set(variables.get("params", {})) == set(params), "the layer's own parameters, no more and no fewer"
    stats = variables["batch_stats"] if state is None else {"mean": state["mean"], "var": state["var"]}
    y, new = layer.apply(
        {"params": params, "batch_stats": stats}, x, use_running_average=inference, mask=mask, mutable=["batch_stats"]
    )
    return y, dict(new["batch_stats"])


def _nnx(
    case: Case, x: Any, gamma: Any, beta: Any, state: dict[str, Any] | None, mask: Any, *, fast: bool
) -> tuple[Any, dict[str, Any]]:
    from flax import nnx

    layer = nnx.BatchNorm(case.channels, rngs=nnx.Rngs(0), **_arguments(case, x, fast))
    given = {"scale": gamma, "bias": beta} | ({} if state is None else {"mean": state["mean"], "var": state["var"]})
    for name, value in given.items():
        if value is not None:
            getattr(layer, name).set_value(value)
    y = layer(x, use_running_average=case.mode == "inference", mask=mask)
    return y, {"mean": layer.mean.get_value(), "var": layer.var.get_value()}


def _arguments(case: Case, x: Any, fast: bool) -> dict[str, Any]:
    config = case.config
    return {
        "axis": config.axis,
        "momentum": config.decay,
        "epsilon": config.epsilon,
        "use_scale": config.scale,
        "use_bias": config.center,
        "dtype": x.dtype,
        "axis_name": RANKS if len(case.ranks) > 1 else None,
        "use_fast_variance": fast,
    }
