"""bnspec's own functions inside several transformations of JAX at once, as a program that trains has them.

A case is one step of `jax.lax.scan`, over one lane of `jax.vmap`, and computed again by `jax.checkpoint` where a
gradient would ask for it; the whole is compiled. Ranks are lanes of a further `jax.vmap` inside.
"""

import functools
from typing import Any

import bnspec
from bnspec_conformance.subjects.frameworks.jax.jax_common import RANKS
from bnspec_conformance.subjects.own.jit import Compiled, asked, jax_jit

__all__ = ["Nested", "jax_nested"]


def jax_nested() -> "Nested":
    """bnspec inside of scan, vmap and checkpoint, compiled."""
    like = jax_jit()
    return Nested(like.scope, like.library, like.arithmetic, name="jax-nested", examples=2)


class Nested(Compiled):
    """One compiled program per configuration and shapes."""

    @staticmethod
    def _compute(*asked_for: Any) -> dict[str, Any]:
        return _inside(*asked_for)


def _inside(
    config: bnspec.BatchNormConfig, mode: str, update: bool, world: int,
    given: dict[str, Any], shared: tuple[dict[str, Any], ...], state: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything a case asks for, as one lane of one step."""
    import jax

    def lane(given: Any, shared: Any, state: Any) -> Any:
        one = functools.partial(asked, config, mode, update, world, shared=shared, state=state)
        return one(given) if world == 1 else jax.vmap(one, axis_name=RANKS)(given)

    def step(carry: Any, given: Any) -> tuple[Any, Any]:
        return carry, jax.vmap(jax.checkpoint(lane))(*given)

    whole = jax.tree.map(lambda v: v[None, None], (given, shared, state))
    _, found = jax.lax.scan(step, None, whole)
    alone: dict[str, Any] = jax.tree.map(lambda v: v[0, 0], found)
    return alone
