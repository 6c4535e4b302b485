"""Common parts of layers on JAX as subjects: ranks by `jax.vmap`, derivatives by `jax.vjp` and `jax.jvp`.

A layer is one function of arrays, `Apply`; everything else about a case is done here. Cases run eagerly: a new shape
costs a second or two, another configuration of a known shape some hundredths of one.
"""

import dataclasses
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.cases.scope import Scope, needs
from bnspec_conformance.subjects.defaults import HasDefaults

__all__ = ["PROFILES_OF_LAYERS", "RANKS", "Apply", "JaxLayer", "LayerScope", "dtypes", "full_mask", "parameters",
           "put", "stack"]  # fmt: skip

#: Name of the axis that ranks are mapped along.
RANKS = "ranks"

#: Profiles of every layer here; none of them returns the batch's statistics, so there are no cotangents of them either.
PROFILES_OF_LAYERS = frozenset({"core", "running", "inference", "grad", "jvp", "sync"})

#: ``(case, x, gamma, beta, state, mask) -> (y, new state)`` of one rank, on JAX arrays. gamma and beta are None where
#: the configuration has none, state where the case has none: the layer then starts as its framework makes it.
Apply = Callable[[Case, Any, Any, Any, "dict[str, Any] | None", Any], "tuple[Any, dict[str, Any]]"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerScope(Scope):
    """A scope that asks how ranks are weighted only where that matters: where their counts differ."""

    ragged: bool = False

    def reason(self, case: Case) -> str | None:
        """Return None, or why the case lies outside."""
        options = dict(self.options)
        if len({_counts(rank, case) for rank in case.ranks}) == 1:
            options.pop("sync_weighting", None)
        return Scope.reason(dataclasses.replace(self, options=options), case)


@dataclasses.dataclass
class JaxLayer(HasDefaults):
    """One framework's layer as a subject.

    Attributes
    ----------
    apply : Apply
        The layer.
    packages : tuple of str
        Distributions whose versions identify it.
    limit : callable
        A case to None, or to the layer's own reason why it has no such thing.
    """

    name: str
    apply: Apply
    scope: Scope
    packages: tuple[str, ...]
    dialect: str | None
    limit: Callable[[Case], str | None] = lambda case: None
    arithmetic: Literal["float64", "float32"] = "float32"
    bound: Literal["strict", "plain"] = "plain"
    flushes: bool = True  # XLA does on the CPU
    examples: int = 8  # few shapes then, and ranks of one shape
    backend: None = None

    def version(self) -> str:
        """Return the framework and JAX, with their versions."""
        return ", ".join(f"{package} {version(package)}" for package in (*self.packages, "jax"))

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason, then the layer's own."""
        return self.scope.reason(case) or self.limit(case)

    def run(self, case: Case) -> Outcome:
        """Run the layer once, and once more under `jax.jvp` where tangents are asked for."""
        import jax

        x = stack([r.x for r in case.ranks])
        # A copy of the parameters per rank, so that each has a gradient of its own.
        params, dots = ({k: stack([v] * len(case.ranks)) for k, v in each.items()} for each in parameters(case))
        state = None if case.state is None else {k: put(v) for k, v in case.state.items()}
        mask = None
        if any(r.mask is not None for r in case.ranks):
            mask = stack([full_mask(rank, case) for rank in case.ranks])

        def one(x: Any, params: dict[str, Any], mask: Any) -> tuple[Any, dict[str, Any]]:
            return self.apply(case, x, params.get("gamma"), params.get("beta"), state, mask)

        def forward(x: Any, params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if len(case.ranks) == 1:
                return one(x, params, mask)
            mapped = jax.vmap(one, in_axes=(0, 0, None if mask is None else 0), axis_name=RANKS)
            return mapped(x, params, mask)

        found: dict[str, Any] = {}
        if any(r.dy is not None for r in case.ranks):
            y, pull, new = jax.vjp(forward, x, params, has_aux=True)
            # A layer may return a wider dtype than x's; the cotangent has to follow.
            dy = stack([np.zeros_like(r.x) if r.dy is None else r.dy for r in case.ranks])
            found["dx"], grads = pull(dy.astype(y.dtype))
            found |= {f"d{name}": grad for name, grad in grads.items()}
        else:
            y, new = forward(x, params)
        found["y"] = y
        if case.has_jvp:
            xdot = stack([np.zeros_like(r.x) if r.xdot is None else r.xdot for r in case.ranks])
            found["ydot"] = jax.jvp(lambda *given: forward(*given)[0], (x, params), (xdot, dots))[1]
        kept = new if "running" in needs(case) else None
        return Outcome(tuple(_rank(found, kept, i, len(case.ranks)) for i in range(len(case.ranks))))


def dtypes() -> tuple[str, ...]:
    """Return the dtypes that JAX has now; float64 only where ``jax_enable_x64`` is on."""
    import jax

    return ("float32", "float16", "bfloat16") + (("float64",) if jax.config.read("jax_enable_x64") else ())


def full_mask(rank: RankInputs, case: Case, *, always: bool = False) -> Array:
    """Return the mask as it was given, and in full where ranks that may mask in different ways are stacked."""
    if len(case.ranks) == 1 and rank.mask is not None and not always:
        return rank.mask
    shared, axis = not case.counts_channels, case.config.axis % rank.x.ndim
    shape = [1 if a == axis and shared else n for a, n in enumerate(rank.x.shape)]
    return np.broadcast_to(np.asarray(True) if rank.mask is None else rank.mask, shape)


def parameters(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    """gamma and beta, those that exist, and their tangents in the same dtype; 1 and 0 where the case has none."""
    wide = "float64" if case.ranks[0].x.dtype == np.float64 else "float32"
    params, dots = {}, {}
    for name, exists, default in (("gamma", case.config.scale, 1.0), ("beta", case.config.center, 0.0)):
        if exists:
            given, dot = getattr(case, name), getattr(case, f"{name}_dot")
            params[name] = np.full(case.channels, default, wide) if given is None else given
            dots[name] = np.zeros_like(params[name]) if dot is None else dot.astype(params[name].dtype)
    return params, dots


def put(values: Array) -> Any:
    """Return the values as a new JAX array."""
    import jax.numpy as jnp

    return jnp.array(values)  # a copy: on the CPU JAX would otherwise share NumPy's memory


def stack(arrays: list[Array]) -> Any:
    """Return one array for one rank, and one with the ranks in front for several."""
    return put(arrays[0] if len(arrays) == 1 else np.stack(arrays))


def _rank(found: dict[str, Any], state: dict[str, Any] | None, number: int, world: int) -> RankOutcome:
    def take(values: Any) -> Array:
        return np.array(values if world == 1 else values[number])

    kept = None if state is None else {k: take(v) for k, v in state.items()}
    return RankOutcome(state=kept, **{k: take(v) for k, v in found.items()})


def _counts(rank: RankInputs, case: Case) -> tuple[int, ...]:
    """Return how many elements of each channel a rank has, once where all have the same mask."""
    mask = full_mask(rank, case, always=True)
    others = tuple(a for a in range(mask.ndim) if a != case.config.axis % mask.ndim)
    return tuple(mask.sum(axis=others).tolist())
