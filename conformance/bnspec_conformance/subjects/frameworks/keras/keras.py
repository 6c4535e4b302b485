"""``keras.layers.BatchNormalization`` of Keras 3 as a subject, on Keras's torch or JAX backend.

The backend is the one that ``KERAS_BACKEND`` names; without it torch where that can be imported, else JAX. The layer
runs by its own `stateless_call`; derivatives are the backend's. float16 and bfloat16 x go with the policies
"mixed_float16" and "mixed_bfloat16", under which parameters and moving statistics are float32.

Two paths of the layer are subjects of their own, so that what is wrong on one does not hide the rest: a mask, and
float64. A mask has one dimension less than x and is meant for channels on the last axis, so that is where those of the
masked subject are. Renorm is the form with renorm_mean and renorm_stddev, here with ``rmin = 1/rmax``.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope, needs
from bnspec_conformance.subjects.defaults import HasDefaults
from bnspec_conformance.subjects.frameworks.keras import keras_defaults
from bnspec_conformance.subjects.frameworks.keras.keras_common import VARIABLES, options

__all__ = ["KerasLayer", "keras", "keras_float64", "keras_masked"]


@dataclasses.dataclass
class KerasLayer(HasDefaults):
    """The layer on one of Keras's backends."""

    name: str
    platform: Literal["torch", "jax"]
    dtypes: tuple[str, ...]
    more: frozenset[str]  # profiles beyond those that every path has
    flushes: bool
    examples: int
    arithmetic: Literal["float64", "float32"] = "float32"
    bound: Literal["strict", "plain"] = "plain"
    dialect: str | None = "keras"
    backend: None = None

    @property
    def scope(self) -> Scope:
        """Scope of the layer on this backend."""
        return Scope(
            profiles=frozenset({"core", "running", "inference", "grad", "jvp"}) | self.more,
            dtypes=self.dtypes,
            axes="last" if "mask" in self.more else "any",
            world=1,
            options={
                "correction": (0,),
                "averaging": ("exponential",),
                "nonfinite": ("propagate",),
                "renorm.form": ("tensorpack",),
                "mask.channels": (False,),
            },
        )

    def version(self) -> str:
        """Keras and the backend, with their versions."""
        from importlib.metadata import version

        return f"keras {version('keras')}, {self.platform} {version(self.platform)}"

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason."""
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the layer once, and once more where tangents are asked for."""
        return (_on_torch if self.platform == "torch" else _on_jax)(case)


def keras() -> KerasLayer:
    """Return the layer in every format but float64, without a mask."""
    return _subject("keras", "renorm", dtypes=("float32", "float16", "bfloat16"))


def keras_masked() -> KerasLayer:
    """Return the layer called with a mask."""
    return _subject("keras-masked", "renorm", "mask", dtypes=("float32", "float16", "bfloat16"))


def keras_float64() -> KerasLayer:
    """Return the layer with ``dtype="float64"``."""
    return _subject("keras-float64", "renorm", dtypes=("float64",))


def _subject(name: str, *more: str, dtypes: tuple[str, ...]) -> KerasLayer:
    usual = [platform for platform in ("torch", "jax") if importlib.util.find_spec(platform) is not None]
    os.environ.setdefault("KERAS_BACKEND", (usual or ["torch"])[0])  # read once, when Keras is first imported
    import keras as library

    platform = library.backend.backend()
    own = keras_defaults.layer(platform, dtypes, masked="mask" in more)
    if platform == "torch":
        return KerasLayer(name, "torch", dtypes, frozenset(more), flushes=False, examples=20, defaults=own)
    if platform == "jax":
        from bnspec_conformance.subjects.frameworks.jax import jax_common as _jax_common

        there = tuple(dtype for dtype in dtypes if dtype in _jax_common.dtypes())
        if not there:
            raise ImportError("JAX has no float64 now; set JAX_ENABLE_X64=1")
        return KerasLayer(name, "jax", there, frozenset(more), flushes=True, examples=8, defaults=own)
    raise ImportError(f"KERAS_BACKEND is {platform!r}; expected torch or jax")


def _build(case: Case) -> tuple[Any, dict[str, Array]]:
    """Return the layer, built for the case's x, and the values of its variables by the layer's names."""
    from keras.layers import BatchNormalization

    x = case.ranks[0].x
    layer = BatchNormalization(**options(case))
    layer.build(x.shape)
    given = {"gamma": case.gamma, "beta": case.beta} | (case.state or {})
    kept = "float64" if x.dtype == np.float64 else "float32"
    values = {}
    for ours, name in VARIABLES.items():
        if any(v.name == name for v in layer.variables):
            first = 0.0 if ours in ("beta", "mean", "renorm_mean") else 1.0
            value = given.get(ours)
            values[name] = np.full(case.channels, first, kept) if value is None else value.astype(kept)
    return layer, values


def _call(case: Case, layer: Any, values: Mapping[str, Any], x: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
    """y and the values of the layer's other variables afterwards, by our names."""
    trained, other = layer.trainable_variables, layer.non_trainable_variables
    training = case.mode == "batch"
    y, new = layer.stateless_call(
        [values[v.name] for v in trained], [values[v.name] for v in other], x, training=training, mask=mask
    )
    after = dict(zip((v.name for v in other), new))
    return y, {ours: after[name] for ours, name in VARIABLES.items() if name in after}


def _mask(case: Case) -> Array | None:
    """Return the mask without the channel axis, which is the last."""
    mask = case.ranks[0].mask
    return None if mask is None else mask[..., 0]


def _on_torch(case: Case) -> Outcome:
    from bnspec_conformance.subjects.frameworks.torch.torch_common import from_torch, gradients, tangent, to_torch

    layer, values = _build(case)
    rank, given_mask = case.ranks[0], _mask(case)
    mask = None if given_mask is None else to_torch(given_mask)
    held = {name: to_torch(v) for name, v in values.items()}
    given = {"x": to_torch(rank.x)} | {name: held[name] for name in ("gamma", "beta") if name in held}
    state: dict[str, Array] = {}

    def forward(given: Mapping[str, Any]) -> Any:
        y, new = _call(case, layer, {**held, **given}, given["x"], mask)
        state.update({name: from_torch(v) for name, v in new.items()})
        return y

    if rank.dy is not None:
        y, found = gradients(forward, given, to_torch(rank.dy))
    else:
        y, found = forward(given), {}
    kept = dict(state) if "running" in needs(case) else None
    if case.has_jvp:
        dots = {"x": rank.xdot, "gamma": case.gamma_dot, "beta": case.beta_dot}
        dots = {name: to_torch(v) for name, v in dots.items() if v is not None}
        found["ydot"] = from_torch(tangent(forward, given, dots))
    return Outcome((RankOutcome(y=from_torch(y), state=kept, **found),))


def _on_jax(case: Case) -> Outcome:
    import jax
    import jax.numpy as jnp

    layer, values = _build(case)
    rank, given_mask = case.ranks[0], _mask(case)
    mask = None if given_mask is None else jnp.array(given_mask)
    held = {name: jnp.array(v) for name, v in values.items()}  # jnp.array copies; jnp.asarray may share memory
    given = {"x": jnp.array(rank.x)} | {name: held[name] for name in ("gamma", "beta") if name in held}

    def forward(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return _call(case, layer, held | given, given["x"], mask)

    found: dict[str, Any] = {}
    if rank.dy is not None:
        y, pull, new = jax.vjp(forward, given, has_aux=True)
        (grads,) = pull(jnp.array(rank.dy).astype(y.dtype))
        found = {f"d{name}": grad for name, grad in grads.items()}
    else:
        y, new = forward(given)
    if case.has_jvp:
        dots = {"x": rank.xdot, "gamma": case.gamma_dot, "beta": case.beta_dot}
        along = {
            name: jnp.zeros_like(v) if dots[name] is None else jnp.array(dots[name]).astype(v.dtype)
            for name, v in given.items()
        }
        found["ydot"] = jax.jvp(lambda given: forward(given)[0], (given,), (along,))[1]
    kept = {name: np.array(v) for name, v in new.items()} if "running" in needs(case) else None
    return Outcome((RankOutcome(y=np.array(y), state=kept, **{k: np.array(v) for k, v in found.items()}),))
