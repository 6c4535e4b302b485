"""JAX: no array of ours is pinned to a device that the caller did not choose, and sharded arrays work."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax", reason="JAX is not installed")

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import bnspec

values = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
x, devices = jnp.asarray(values), jax.devices()
config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
params, state = bnspec.init(config, channels=3, like=x)
free = [*params, state.mean, state.var]
assert not x.committed and not any(v.committed for v in free)

sharded = jax.device_put(x, NamedSharding(Mesh(np.array(devices), ("batch",)), PartitionSpec("batch")))
beside = bnspec.init(config, channels=3, like=sharded)
assert not any(v.committed for v in beside[0])
want = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
def step(params, state, v):
    y, stats, saved = bnspec.batch_norm(v, params, config)
    dx = bnspec.batch_norm_vjp(v, saved).x
    return y, bnspec.update_running(state, stats, config), bnspec.batch_norm_inference(v, params, state, config)[0], dx
for run in (step, jax.jit(step)):
    for v in (x, sharded):
        y, new, inferred, dx = run(params, state, v)
        assert np.allclose(np.asarray(y), want, atol=1e-5)
        assert np.allclose(np.asarray(new.mean), 0.1 * values.mean(0), atol=1e-6)
        assert np.allclose(np.asarray(inferred), values / np.sqrt(1 + 1e-5), atol=1e-5)
        assert y.sharding.device_set == v.sharding.device_set and dx.shape == v.shape
empty, stats, _ = bnspec.batch_norm(sharded[:0], params, config)
assert empty.shape == (0, 3) and stats.count.tolist() == [0]

layer = bnspec.BatchNorm(axis=1, epsilon=1e-5, name="sharded")
assert np.allclose(np.asarray(layer(sharded)), want, atol=1e-5) and layer(x).shape == x.shape

other = jax.device_put(x, devices[1])  # pinned by the caller: what is made beside it follows
there, _ = bnspec.init(config, channels=3, like=other)
assert there.gamma.committed and there.gamma.devices() == {devices[1]}
assert bnspec.batch_norm(other, params, config)[0].devices() == {devices[1]}
try:
    bnspec.batch_norm(jax.device_put(x, devices[0]), there, config)
except ValueError as error:
    assert "device" in str(error)
else:
    raise AssertionError("two devices met")
with jax.default_device(devices[2]):
    made, _ = bnspec.init(config, channels=3, like=jnp.ones((2, 3)))
    assert made.gamma.devices() == {devices[2]} and not made.gamma.committed
print("done")
"""

SPREAD = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import bnspec

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
values = np.random.default_rng(0).standard_normal((16, 3, 5), dtype="float32")
mask = jnp.asarray(values[:, :1, :1] > -1)
for source in ("first", "merged", "mean", "sequential"):
    for size in (2, 4) if source == "merged" else (2,):
        config = bnspec.BatchNormConfig(
            axis=1, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=size, ghost_source=source)
        params, state = bnspec.init(config, channels=3, like=jnp.zeros(1))
        def step(x, mask):
            y, stats, saved = bnspec.batch_norm(x, params, config, state=state, mask=mask)
            return y, bnspec.update_running(state, stats, config), bnspec.batch_norm_vjp(x, saved)
        for own in (None, mask):
            want = jax.jit(step)(jnp.asarray(values), own)
            with jax.set_mesh(mesh):
                x = jax.device_put(values, NamedSharding(mesh, PartitionSpec("data")))
                for run in (jax.jit(step), step) if source == "mean" and own is None else (jax.jit(step),):
                    found = run(x, own)
                    assert found[0].sharding.spec[0] == "data"
                    assert found[1].mean.sharding.is_fully_replicated
                    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
                        assert np.allclose(np.asarray(a), np.asarray(b), atol=1e-5), (source, size)
config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=8)
with jax.set_mesh(mesh):
    try:
        jax.jit(lambda v: bnspec.batch_norm(v, params, config)[0])(x)
    except ValueError as error:
        assert "2 groups of 8 samples, and axis 0 in 4 parts by x's type" in str(error), error
    else:
        raise AssertionError("a group lay on two devices")
print("done")
"""


@pytest.mark.parametrize("program", [PROGRAM, SPREAD], ids=["placed", "spread"])
def test_devices_are_the_callers(program: str) -> None:
    """In a process of its own, which has four devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "done\n", ran.stderr
