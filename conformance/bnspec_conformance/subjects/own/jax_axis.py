"""bnspec's own functions on ranks that are devices of `jax.shard_map`, joined over a named axis.

Each rank of a case is a device: one compiled program for all of them, in which JAX checks that statistics and running
state are the same on every rank (``check_vma``). Ranks have arrays of one shape, and uneven counts by their masks. The
subject jax-jit has the same ranks as lanes of `jax.vmap`.
"""

import contextlib
import dataclasses
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.subjects.frameworks.jax.jax_common import RANKS
from bnspec_conformance.subjects.own.jit import Compiled, asked, jax_jit

__all__ = ["Devices", "jax_axis"]

#: Results that every rank has the same; the rest is a rank's own.
_SAME = ("count", "mean", "mean_low", "var", "mean_dot", "var_dot", "state")


def jax_axis() -> "Devices":
    """bnspec on the devices of `jax.shard_map`: four of the host, if JAX has not begun with fewer."""
    import jax

    with contextlib.suppress(RuntimeError, AttributeError):  # begun already, or a version without this setting
        jax.config.update("jax_num_cpu_devices", 4)
    like = jax_jit()
    scope = dataclasses.replace(like.scope, world=min(4, len(jax.devices())))
    return Devices(scope, like.library, like.arithmetic, name="jax-axis")


@dataclasses.dataclass
class Devices(Compiled):
    """One compiled program per configuration, shapes and number of devices."""

    @staticmethod
    def _compute(*asked_for: Any) -> dict[str, Any]:
        return _by_devices(*asked_for)


def _by_devices(
    config: bnspec.BatchNormConfig, mode: str, update: bool, world: int,
    given: dict[str, Any], shared: tuple[dict[str, Any], ...], state: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything a case asks for, on one device for each rank."""
    import jax
    from jax.sharding import Mesh, PartitionSpec

    if world == 1:
        return asked(config, mode, update, world, given, shared=shared, state=state)
    own, same = PartitionSpec(RANKS), PartitionSpec()
    absent: set[str] = set()

    def rank(given: dict[str, Any], shared: Any, state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        here = {name: None if v is None else v[0] for name, v in given.items()}
        found = asked(config, mode, update, world, here, shared=shared, state=state)
        absent.update(name for name, v in found.items() if v is None)
        apart = {name: v[None] for name, v in found.items() if v is not None and name not in _SAME}
        return apart, {name: v for name, v in found.items() if v is not None and name in _SAME}

    mesh = Mesh(np.asarray(jax.devices()[:world]), (RANKS,))
    mapped = jax.shard_map(rank, mesh=mesh, in_specs=(own, same, same), out_specs=(own, same))
    apart, alike = mapped(given, shared, state)
    alike = jax.tree.map(lambda v: jax.numpy.broadcast_to(v, (world, *v.shape)), alike)
    found: dict[str, Any] = dict.fromkeys(absent) | apart | alike
    return found
