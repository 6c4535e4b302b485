"""bnspec in JAX by its compiled kernels, differentiated by JAX.

Sums come from the loops that serve NumPy, called from XLA's programs (`bnspec_backends.xla.use("compiled")`), and all
derivatives from `jax.vjp` and `jax.jvp`, as in training. Masked cases go by XLA's own sums there.
"""

import dataclasses
from typing import Any

import bnspec
from bnspec_conformance.subjects.own.jit import Compiled, jax_jit

__all__ = ["Differentiated", "jax_compiled"]


def jax_compiled() -> "Differentiated":
    """bnspec with compiled kernels in `jax.jit`, differentiated by JAX; one rank."""
    from bnspec_backends import xla

    xla.make("compiled")
    like = jax_jit()
    scope = dataclasses.replace(like.scope, world=1, profiles=like.scope.profiles - {"sync"})
    return Differentiated(scope, like.library, like.arithmetic, name="jax-compiled")


class Differentiated(Compiled):
    """One compiled program per configuration and shapes."""

    @staticmethod
    def _compute(*asked_for: Any) -> dict[str, Any]:
        from bnspec_backends import xla

        with xla.using("compiled"):
            return _differentiated(*asked_for)


def _differentiated(
    config: bnspec.BatchNormConfig, mode: str, update: bool, world: int,
    given: dict[str, Any], shared: tuple[dict[str, Any], ...], state: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything a case asks for; derivatives are those of y, and of mean and var where they have cotangents."""
    import jax
    import jax.numpy as jnp

    params, dots = (bnspec.Params(each.get("gamma"), each.get("beta")) for each in shared)
    before = None if state is None else bnspec.RunningState(**state)

    def forward(x: Any, params: bnspec.Params) -> Any:
        if mode == "inference":
            assert before is not None
            return bnspec.batch_norm_inference(x, params, before, config)[0], None
        y, stats, _ = bnspec.batch_norm(x, params, config, state=before, mask=given["mask"])
        return y, stats

    x = given["x"]
    found: dict[str, Any] = dict.fromkeys(_RESULTS)
    (found["y"], stats) = forward(x, params)
    if stats is not None:
        mean = stats.mean + stats.mean_low
        found |= {"count": stats.count, "mean": mean, "mean_low": (stats.mean - mean) + stats.mean_low}
        found["var"] = stats.var
        if before is not None and update:
            after = bnspec.update_running(before, stats, config)
            found["state"] = {k: v for k, v in after._asdict().items() if v is not None}

    def results(x: Any, params: bnspec.Params) -> Any:
        y, stats = forward(x, params)
        return (y,) if stats is None else (y, stats.mean, stats.var)

    if given["dy"] is not None:
        out, back = jax.vjp(results, x, params)
        cotangents = (given["dy"].astype(out[0].dtype), given["dmean"], given["dvar"])[: len(out)]
        cotangents = tuple(jnp.zeros_like(o) if c is None else c for c, o in zip(cotangents, out, strict=True))
        dx, dparams = back(cotangents)
        found |= {"dx": dx, "dgamma": dparams.gamma, "dbeta": dparams.beta}
    if given["xdot"] is not None:
        moved = [None if p is None else _or_zeros(d, p) for d, p in zip(dots, params, strict=True)]
        tangents = (given["xdot"].astype(x.dtype), bnspec.Params(*moved))
        ydot, *rest = jax.jvp(results, (x, params), tangents)[1]
        found["ydot"] = ydot
        found |= dict(zip(("mean_dot", "var_dot"), rest, strict=False))
    return found


_RESULTS = (
    "y", "count", "mean", "mean_low", "var", "state", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot",
)  # fmt: skip


def _or_zeros(dot: Any, parameter: Any) -> Any:
    import jax.numpy as jnp

    return jnp.zeros_like(parameter) if dot is None else dot.astype(parameter.dtype)
