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


def test_devices_are_the_callers() -> None:
    """In a process of its own, which has four devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "done\n", ran.stderr
