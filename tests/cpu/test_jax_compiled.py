"""JAX's compiled kernels: the frames they read, their digits, JAX's derivatives, and where XLA's own sums stay."""

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnspec

jax = pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("numba", reason="numba is not installed")
jnp = jax.numpy

from bnspec_backends import cpu, xla  # noqa: E402 - only where both are there
from bnspec_backends.xla.compiled import call_frame, handlers  # noqa: E402

#: Channels in long runs and in short ones, in one part and in several, with ghost groups.
SHAPES = [((4, 3, 16, 16), 1, None), ((8, 4, 5, 5), 1, 4), ((64, 5), 1, None), ((2, 2, 300, 300), 1, 1)]


def config_for(axis: int, virtual: int | None) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(axis=axis, epsilon=1e-3, decay=0.9, correction=0, virtual_batch_size=virtual)


def arrays(shape: tuple[int, ...], axis: int, dtype: str) -> tuple[Any, Any, Any]:
    """Return x with a mean far from 0, a cotangent, and gamma and beta."""
    draw = np.random.default_rng(0).standard_normal
    x, dy = (jnp.asarray(v, dtype) for v in (draw(shape) + 5.0, draw(shape)))
    return x, dy, bnspec.Params(*(jnp.asarray(draw(shape[axis]), "float32") for _ in range(2)))


def calls(text: str) -> int:
    """Count the calls of compiled loops in a program."""
    return text.count("@bnspec_")


def test_places_are_those_of_the_header(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    header = Path(importlib.util.find_spec("jaxlib").submodule_search_locations[0]) / "include"
    if compiler is None or not (header / "xla/ffi/api/c_api.h").exists():
        pytest.skip("no C compiler, or a jaxlib without its headers")
    lines = [
        f'printf("%zu\\n", offsetof({kind}, {path}));' for kind, places in call_frame.PLACES.items() for path in places
    ]
    lines.append('printf("%d\\n%d\\n", XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);')
    source = '#include <stddef.h>\n#include <stdio.h>\n#include "xla/ffi/api/c_api.h"\nint main(void) {\n'
    (tmp_path / "places.c").write_text(source + "\n".join(lines) + "\nreturn 0;\n}\n")
    program = tmp_path / "places"
    subprocess.run([compiler, "-I", header, tmp_path / "places.c", "-o", program], check=True)
    found = [int(n) for n in subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()]
    *places, major, minor = found
    assert places == [place for each in call_frame.PLACES.values() for place in each.values()]
    assert (major, minor) >= call_frame.VERSION
    assert major == call_frame.VERSION[0]


@pytest.mark.parametrize(
    ("shape", "axis", "virtual", "dtype"),
    [(*shape, "float32") for shape in SHAPES] + [(*SHAPES[1], "bfloat16"), (*SHAPES[0], "float16")],
)
def test_sums_are_those_of_float64(shape: tuple[int, ...], axis: int, virtual: int | None, dtype: str) -> None:
    if dtype == "float16" and not cpu.in_use() == "compiled":
        pytest.skip("the kernels for NumPy are others here")
    x, dy, params = arrays(shape, axis, dtype)
    config = config_for(axis, virtual)

    def sums(x: Any, dy: Any) -> Any:
        _, stats, saved = bnspec.batch_norm(x, bnspec.Params(*params), config)
        grads = bnspec.batch_norm_vjp(dy, saved)
        return stats, grads.beta

    with xla.using("compiled"):
        program = jax.jit(sums).lower(x, dy)
        assert calls(program.as_text()) == 2
        stats, dbeta = program.compile()(x, dy)
    given = np.asarray(x).astype(np.float64)
    _, exact, _ = bnspec.batch_norm(given, bnspec.Params(*(np.asarray(p, np.float64) for p in params)), config)
    mean = np.asarray(stats.mean, np.float64) + np.asarray(stats.mean_low, np.float64)
    np.testing.assert_allclose(mean, exact.mean + exact.mean_low, rtol=2.0**-45)
    np.testing.assert_allclose(np.asarray(stats.m2, np.float64), exact.m2, rtol=2.0**-23)
    over = tuple(a for a in range(len(shape)) if a != axis)
    total = np.asarray(dy).astype(np.float64).sum(axis=over)
    groups = exact.m2.shape[0]  # each group's sum is rounded, and then their sum
    np.testing.assert_allclose(
        np.asarray(dbeta, np.float64), total, rtol=0, atol=groups * 2.0**-23 * np.abs(total).max() * 4
    )


@pytest.mark.parametrize(
    ("shape", "axis", "virtual", "dtype"),
    [(*SHAPES[0], "float32"), (*SHAPES[1], "float32"), (*SHAPES[1], "bfloat16")],
)
def test_derivatives_are_those_of_the_formulas(
    shape: tuple[int, ...], axis: int, virtual: int | None, dtype: str
) -> None:
    """Forward and reverse mode, their compositions, and vmap, of y and the statistics."""
    x, dy, params = arrays(shape, axis, dtype)
    config = config_for(axis, virtual)

    def loss(x: Any, params: bnspec.Params) -> Any:
        y, stats, _ = bnspec.batch_norm(x, params, config)
        return (y.astype("float32") * dy).sum() + (stats.mean**2).sum() + stats.var.sum()

    slope = jax.grad(loss, (0, 1))
    moved = (jnp.cos(x), bnspec.Params(*map(jnp.cos, params)))

    def all_of_them(x: Any, params: bnspec.Params) -> Any:
        return {
            "grad": slope(x, params),
            "jvp": jax.jvp(loss, (x, params), moved)[1],
            "forward over reverse": jax.jvp(slope, (x, params), moved)[1],
            "reverse over reverse": jax.grad(lambda x: (slope(x, params)[0] * jnp.cos(x)).sum())(x),
            "vmap": jax.vmap(slope, (0, None))(jnp.stack([x, 2 * x]), params),
            "checkpoint": jax.grad(jax.checkpoint(loss), (0, 1))(x, params),
        }

    found = {}
    for kernels in xla.KERNELS:
        with xla.using(kernels):
            found[kernels] = jax.jit(lambda x, params: all_of_them(x, params))(x, params)
    digits = 2e-5 if dtype == "float32" else 2.0**-7
    for name, exact in found["xla"].items():
        for got, want in zip(jax.tree.leaves(found["compiled"][name]), jax.tree.leaves(exact), strict=True):
            got, want = (np.asarray(v).astype(np.float64) for v in (got, want))
            assert got.shape == want.shape, name
            assert np.abs(got - want).max() <= digits * np.abs(want).max(), name


def test_a_gradient_of_16_bits_is_rounded_once() -> None:
    """Two values to a channel: the parts of dx cancel, and of parts that were rounded only their roundoffs are left."""
    x = jnp.asarray(np.asarray([[1.0, 100.0], [2.0, 101.0]]), "bfloat16")
    params = bnspec.Params(jnp.ones(2), jnp.zeros(2))
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=0)
    dy = jnp.asarray([[1.0, 2.0], [3.0, 5.0]], "bfloat16")
    with xla.using("compiled"):
        dx = jax.jit(lambda x: jax.vjp(lambda x: bnspec.batch_norm(x, params, config)[0], x)[1](dy)[0])(x)
    given = np.asarray(x).astype(np.float64)
    wide = bnspec.Params(np.ones(2), np.zeros(2))
    exact = bnspec.batch_norm_vjp(np.asarray(dy).astype(np.float64), bnspec.batch_norm(given, wide, config)[2]).x
    np.testing.assert_allclose(np.asarray(dx).astype(np.float64), exact, rtol=2.0**-8)


@pytest.mark.parametrize("kernels", xla.KERNELS)
def test_an_infinite_x_reaches_no_tangent_of_an_affine_map(kernels: str) -> None:
    config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
    params, state = bnspec.init(config, channels=2, like=jnp.zeros(1))
    x = jnp.asarray([[1.0, jnp.inf], [2.0, jnp.nan]])
    with xla.using(kernels):
        moved = jax.jvp(lambda x: bnspec.batch_norm_inference(x, params, state, config)[0], (x,), (jnp.ones_like(x),))
    assert moved[1].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_large_numbers_have_a_variance() -> None:
    x = jnp.asarray([[-3e38, 1e30], [3e38, 3e30]], "float32")
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=0)
    with xla.using("compiled"):
        y, stats = jax.jit(lambda x: bnspec.batch_norm(x, bnspec.Params(jnp.ones(2), jnp.zeros(2)), config)[:2])(x)
    np.testing.assert_allclose(y, [[-1.0, -1.0], [1.0, 1.0]], rtol=1e-6)
    assert stats.mean.tolist()[0][0] == 0.0


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    x, dy, params = arrays((16, 40, 32, 32), 1, "float32")
    config = config_for(1, None)
    found = []
    before = cpu.resources.threads
    try:
        for threads in (1, 2):
            cpu.resources.threads = threads
            with xla.using("compiled"):
                step = jax.jit(lambda x, dy: jax.vjp(lambda x: bnspec.batch_norm(x, params, config)[0], x)[1](dy)[0])
                found.append(np.asarray(step(x, dy)))
    finally:
        cpu.resources.threads = before
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize("what", ["mask", "export", "several devices"])
def test_programs_that_keep_the_sums_of_xla(what: str) -> None:
    x, _, params = arrays((8, 3, 4, 4), 1, "float32")
    config = config_for(1, None)
    mask = jnp.ones((8, 1, 4, 4), bool) if what == "mask" else None

    def step(x: Any) -> Any:
        return bnspec.batch_norm(x, params, config, mask=mask)[0]

    with xla.using("compiled"):
        if what == "several devices":
            ran = subprocess.run(
                [sys.executable, "-c", SPREAD], capture_output=True, text=True, check=False,
                env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
            )  # fmt: skip
            assert ran.stdout == "done\n", ran.stderr
        elif what == "export":
            from jax import export

            assert calls(export.export(jax.jit(step))(x).mlir_module()) == 0
        else:
            assert calls(jax.jit(step).lower(x).as_text()) == 0


SPREAD = """
import jax, numpy as np, jax.numpy as jnp, bnspec
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from bnspec_backends import xla
mesh = Mesh(np.asarray(jax.devices()), ("batch",))
config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=0)
params = bnspec.Params(jnp.ones(3), jnp.zeros(3))
x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3, 4, 4)), "float32")
step = lambda x: jax.value_and_grad(lambda x: (bnspec.batch_norm(x, params, config)[0] ** 3).sum())(x)
put = jax.device_put(x, NamedSharding(mesh, P("batch")))
with xla.using("compiled"):
    alone, spread = (jax.jit(step).lower(v) for v in (x, put))
    assert alone.as_text().count("@bnspec_") == 2 and spread.as_text().count("@bnspec_") == 0
    text = spread.compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text
    for a, b in zip(alone.compile()(x), spread.compile()(put)):
        np.testing.assert_allclose(a, b, atol=1e-3)  # a sum of cubes, of which little is left
    # Each device has a program of its own, of which JAX checks nothing: there each sums its own part.
    own = lambda x: step(x)[1]
    own = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"), check_vma=False))
    assert own.lower(put).as_text().count("@bnspec_") == 2
    parts = jnp.concatenate([step(part)[1] for part in jnp.split(x, 4)])
    np.testing.assert_allclose(own(put), parts, atol=2e-5)
print("done")
"""


def test_wanting_memory_is_an_error_of_xla() -> None:
    from numba import types
    from numba.core.ccallback import CFunc

    text = np.frombuffer(b"no memory is left\0", np.uint8)

    def handler(frame: int) -> int:
        if call_frame.answers(frame):
            return 0
        return int(call_frame.failure(frame, text))

    made = CFunc(handler, ((types.int64,), types.int64), {}, {})
    made.compile()
    jax.ffi.register_ffi_target("bnspec_test_failure", jax.ffi.pycapsule(made.ctypes), platform="cpu", api_version=1)
    shape = jax.ShapeDtypeStruct((1,), jnp.float32)
    with pytest.raises(RuntimeError, match=r"RESOURCE_EXHAUSTED.*no memory is left"):
        jax.block_until_ready(jax.jit(lambda x: jax.ffi.ffi_call("bnspec_test_failure", shape)(x))(jnp.ones(1)))


def test_names_of_functions_differ() -> None:
    names = [
        handlers.target(*each)
        for each in itertools.product(("moments", "sums"), ("float32",), ("float32",), (True, False))
    ]
    assert len(set(names)) == 4


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    before = xla.in_use()
    with pytest.raises(ValueError, match="expected one of xla, compiled"):
        xla.use("cuda")
    monkeypatch.setenv("BNSPEC_JAX_KERNELS", "fast")
    with pytest.raises(ValueError, match="BNSPEC_JAX_KERNELS is 'fast'"):
        xla.in_use()
    monkeypatch.setenv("BNSPEC_JAX_KERNELS", "compiled")
    assert xla.in_use() == "compiled"
    assert bnspec.get_backend("jax").serving == "compiled"  # type: ignore[attr-defined]
    monkeypatch.delenv("BNSPEC_JAX_KERNELS")
    monkeypatch.setitem(sys.modules, "bnspec_backends.xla.compiled", None)
    with pytest.raises(ImportError, match=r"pip install 'bnspec\[cpu,jax\]'"):
        xla.use("compiled")
    assert xla.in_use() == before
