"""JAX's sums in levels, the range and digits of its statistics in float32, and what XLA sends between devices."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec_conformance import oracle
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.cases.inputs.families import hard_families

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy

#: Hard families that float32 cannot have: XLA takes subnormal numbers for 0 on the CPU, dx beside the largest number is
#: one, and what is left of dx where only two values differ is less than a roundoff of its terms.
BEYOND = {("denormal", "y"), ("denormal_and_normal", "y"), ("near_float_max", "dx"), ("two_values_far", "dx")}

SHAPES = [((7, 5, 3), (0, 1)), ((1009, 3), (0,)), ((4, 100, 70, 2), (0, 1, 2)), ((9000, 1), (0,)), ((3, 8, 70), (0, 2))]


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_sums_and_broadcasts_are_transposes_of_each_other(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    from bnspec_backends.xla.levels import spread, total

    v = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    exact = v.astype(np.float64).sum(axis=axes, keepdims=True)
    bound = 32 * 2.0**-24 * np.abs(v).sum(axis=axes, keepdims=True)  # 32 is far less than the number of terms
    found = jax.jit(total, static_argnums=1)(v, axes)
    assert found.shape == exact.shape
    assert (np.abs(found - exact) <= bound).all()
    whole = jax.jit(spread, static_argnums=(1, 2))(found, shape, axes)
    assert (np.asarray(whole) == np.broadcast_to(found, shape)).all()
    back = jax.jit(lambda s, v: jax.vjp(lambda s: spread(s, shape, axes), s)[1](v)[0])(found, v)
    assert (np.asarray(back) == np.asarray(found)).all()  # the same sum, to the bit


def worst(found: Any, exact: Any, zero: Any) -> float:
    """Return the error of the worst channel in units of its largest value, `zero` where that is 0."""
    axes = tuple(range(exact.ndim - 1))
    size = np.abs(exact).max(axis=axes)
    return float((np.abs(np.asarray(found, np.float64) - exact).max(axis=axes) / np.where(size > 0, size, zero)).max())


@jax.jit
def y_and_dx(x: Any, gamma: Any, beta: Any, dy: Any, config: bnspec.BatchNormConfig) -> Any:
    """Return y, and dx by JAX's own derivative, whose sums are ours."""
    y, back = jax.vjp(lambda x: bnspec.batch_norm(x, bnspec.Params(gamma, beta), config)[0], x)
    return y, back(dy)[0]


def test_hard_families_keep_the_digits_of_float32() -> None:
    missed: dict[tuple[str, str], float] = {}
    for name, (x, gamma, beta, dy, epsilon) in hard_families().items():
        config = bnspec.BatchNormConfig(axis=x.ndim - 1, epsilon=epsilon, decay=0.9, correction=0)
        case = Case(config=config, ranks=(RankInputs(x, dy),), gamma=gamma, beta=beta)
        exact = oracle.exact(case).ranks[0]
        zero = np.abs(gamma.astype(np.float64))
        y, dx = y_and_dx(x, gamma, beta, dy, config)
        errors = {"y": worst(y, exact.y, zero), "dx": worst(dx, exact.dx, zero / np.sqrt(epsilon))}
        missed |= {(name, what): error for what, error in errors.items() if not error <= 5e-7}
    assert set(missed) == BEYOND, missed


@pytest.mark.parametrize("shape", [(128, 0), (70, 100, 0), (0, 0)])
def test_no_channels_at_all(shape: tuple[int, ...]) -> None:
    """Rows that fall into parts hold nothing either; forward, and both derivatives."""
    config = bnspec.BatchNormConfig(axis=-1, epsilon=1e-3, decay=0.9, correction=0)
    x, params = jnp.zeros(shape), bnspec.Params(jnp.ones(0), jnp.zeros(0))
    for mask in (None, jnp.ones((*shape[:-1], 1), bool)):
        y, stats, saved = bnspec.batch_norm(x, params, config, mask=mask)
        assert y.shape == bnspec.batch_norm_vjp(x, saved).x.shape == bnspec.batch_norm_jvp(x, saved).shape == shape
        assert stats.m2.shape == (1, 0)


def test_differences_that_no_number_reaches() -> None:
    """Elements beside the largest number with both signs: what lies between them overflows, y and dx do not."""
    x = np.asarray([[3.4e38, -3.4e38]] + [[-3.4e38, 3.4e38]] * 99, np.float32)
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=0)
    ones = jnp.ones(2)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(0)) / wide.std(0)
    y, dx = y_and_dx(x, ones, ones * 0, jnp.ones_like(x), config)
    assert worst(y, exact, 1.0) < 5e-7
    assert np.isfinite(np.asarray(dx)).all()


PROGRAM = """
import re, sys
import jax, jax.numpy as jnp, numpy as np
import bnspec
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

config = bnspec.dialects.flax.config()
x = np.random.default_rng(0).standard_normal((8, 4, 4, 6)).astype(np.float32) * 3 + 5
params, state = bnspec.Params(jnp.ones(6), jnp.zeros(6)), bnspec.RunningState(jnp.zeros(6), jnp.ones(6))

def loss(x, params, state):
    y, stats, _ = bnspec.batch_norm(x, params, config)
    return (y**3).sum(), (y, bnspec.update_running(state, stats, config))

step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
want = jax.tree.map(np.asarray, step(jnp.asarray(x), params, state))

def close(found):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5, atol=2e-5)

mesh = Mesh(np.array(jax.devices()), ("batch",))
given = jax.device_put(x, NamedSharding(mesh, P("batch"))), *jax.device_put((params, state), NamedSharding(mesh, P()))
program = step.lower(*given).compile()
close(program(*given))
print(sorted(set(re.findall(r"(all-reduce|all-gather|all-to-all|collective-permute)\\(", program.as_text()))))

if hasattr(jax.sharding, "AxisType") and hasattr(jax, "set_mesh"):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        found = step(jax.device_put(x, NamedSharding(mesh, P("batch"))), params, state)
        close(found)
        assert found[0][0].sharding.spec[0] == "batch"
"""


def test_a_batch_over_devices_is_joined_by_sums_alone() -> None:
    """Whether the arrays' types say how they are spread or not."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (root, root / "backends", root / "conformance")))
    four = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=four, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['all-reduce']"
