"""The kernels for CPUs against the specification's own, and what they share: threads, memory, the choice of kernels."""

import importlib.util
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnspec
from bnspec._discovery import kernels_for
from bnspec._moments import merge_rows
from bnspec_backends import cpu
from bnspec_backends.cpu.buffer_pool import Pool
from bnspec_backends.cpu.workers import Workers

PLAIN: Any = bnspec.Kernels()
COMPILES = importlib.util.find_spec("numba") is not None
KINDS: dict[str, Any] = {name: cpu.make(name) for name in (("compiled", "blocked") if COMPILES else ("blocked",))}
with_numba = pytest.mark.skipif(not COMPILES, reason="numba is not installed")
CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)


def cases() -> list[Any]:
    """Shapes of every kind of plan: long runs, short ones, rows, few rows of many channels, several blocks."""
    return [
        ((3, 4, 20, 20), 1, 1), ((4, 6, 5, 5), 1, 2), ((50, 7), 1, 5), ((2, 3, 200), 1, 2), ((3, 9000), 1, 3),
        ((1500, 300), 1, 3), ((40, 3, 3, 5), 3, 4), ((2, 5000, 3), 1, 1), ((5, 1), 1, 1), ((8, 1, 300), 1, 4),
        ((1, 3), 1, 1), ((700, 500), 1, 1), ((3, 600_000), 0, 1), ((6, 2, 300, 250), 1, 1), ((8, 1, 400, 120), 1, 2),
    ]  # fmt: skip


def arrays(shape: Any, dtype: Any, seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    return (rng.standard_normal(shape) * 2 + 30).astype(dtype), rng.standard_normal(shape).astype(dtype)


def close(got: Any, wanted: Any, dtype: Any, where: Any) -> None:
    u = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    got, wanted = np.asarray(got, float), np.asarray(wanted, float)
    assert got.shape == wanted.shape, where
    assert np.abs(got - wanted).max() <= 4 * u * np.abs(wanted).max(), where


def close_sum(got: Any, wanted: Any, size: int, count: Any, where: Any) -> None:
    """Two sums of so many terms of float64, whose absolute values add up to `size`."""
    allowed = 2.0**-53 * (4 + count**0.5) * size
    assert got.shape == wanted.shape, where
    assert (np.abs(got - wanted) <= allowed).all(), where


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis", "number"), cases())
@pytest.mark.parametrize("masked", [False, True])
def test_primitives_are_those_of_the_specification(
    kind: Any, dtype: str, shape: Any, axis: int, number: Any, masked: bool
) -> None:
    kernels = KINDS[kind]
    x, dy = arrays(shape, dtype)
    groups = bnspec._types.Groups(axis, number)
    mask = None
    if masked:
        fits = tuple(1 if a == axis else n for a, n in enumerate(shape))
        mask = np.random.default_rng(1).random(fits) < 0.6
    mine, wanted = kernels.moments(x, groups, mask), PLAIN.moments(x, groups, mask)
    assert mine.count.tolist() == wanted.count.tolist()
    n = wanted.count.max()
    spread = np.abs(x.astype(float)).max()
    close_sum(mine.mean + mine.mean_low, wanted.mean + wanted.mean_low, spread, n, "mean")
    close_sum(mine.m2, wanted.m2, 9 * wanted.m2, n, "m2")
    scale = np.random.default_rng(2).standard_normal((4, *wanted.mean.shape))
    close(
        kernels.normalize(x, wanted.mean, scale[0], scale[1], groups),
        PLAIN.normalize(x, wanted.mean, scale[0], scale[1], groups), dtype, "y",
    )  # fmt: skip
    for name, a, b in zip(
        ("s1", "s2"),
        kernels.grad_sums(dy, x, wanted.mean, groups, mask),
        PLAIN.grad_sums(dy, x, wanted.mean, groups, mask),
    ):
        close_sum(a, b, n * spread * np.abs(dy.astype(float)).max(), n, name)
    close(
        kernels.grad_input(dy, x, wanted.mean, *scale[1:], groups, mask),
        PLAIN.grad_input(dy, x, wanted.mean, *scale[1:], groups, mask), dtype, "dx",
    )  # fmt: skip


class FourAlone(bnspec.Kernels):
    """The compiled primitives without the fused passes."""


if COMPILES:
    for primitive in ("moments", "normalize", "grad_sums", "grad_input"):
        setattr(FourAlone, primitive, staticmethod(getattr(KINDS["compiled"], primitive)))


def step(x: Any, dy: Any, config: Any, gamma: Any = None, beta: Any = None) -> list[Any]:
    params = bnspec.Params(gamma, beta)
    y, stats, saved = bnspec.batch_norm(x, params, config)
    return [y, *stats, *bnspec.batch_norm_vjp(dy, saved)]


def same_bits(first: Any, second: Any) -> Any:
    return all(
        (a is None) == (b is None) and (a is None or np.asarray(a).tobytes() == np.asarray(b).tobytes())
        for a, b in zip(first, second, strict=True)
    )


@with_numba
@pytest.mark.parametrize(("shape", "axis", "number"), cases())
def test_fused_passes_equal_the_four_primitives_to_the_bit(shape: Any, axis: int, number: Any) -> None:
    x, dy = arrays(shape, "float32")
    size = shape[0] // number if number > 1 else None
    config = bnspec.BatchNormConfig(axis=axis, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=size)
    gamma, beta = np.random.default_rng(3).standard_normal((2, shape[axis])).astype(np.float32)
    with bnspec.use_kernels("numpy", KINDS["compiled"]):
        fused = step(x, dy, config, gamma, beta)
    with bnspec.use_kernels("numpy", FourAlone()):
        assert same_bits(fused, step(x, dy, config, gamma, beta))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axis", "number"), cases())
def test_no_bit_depends_on_the_number_of_threads(
    kind: Any, shape: Any, axis: int, number: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, dy = arrays(shape, "float32")
    size = shape[0] // number if number > 1 else None
    config = bnspec.BatchNormConfig(axis=axis, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=size)
    gamma, beta = np.random.default_rng(3).standard_normal((2, shape[axis])).astype(np.float32)
    monkeypatch.setattr(
        sys.modules["bnspec_backends.cpu.resources"], "SERIAL", 0
    )  # `cpu.resources` is the object in it
    if kind == "compiled":
        monkeypatch.setattr("bnspec_backends.cpu.operations.SERIAL", 0)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(cpu.resources, "_workers", Workers(threads))
        with bnspec.use_kernels("numpy", KINDS[kind]):
            found.append(step(x, dy, config, gamma, beta))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


@with_numba
@pytest.mark.parametrize("averaging", ["exponential", "debiased", "cumulative", "pooled"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "odd", ["", "nan", "one value", "full counter", "huge", "old inf", "decay 0", "decay 1", "groups"]
)
def test_running_statistics_are_those_of_the_specification_to_the_bit(averaging: str, dtype: str, odd: str) -> None:
    decay = {"decay 0": 0.0, "decay 1": 1.0}.get(odd, 0.9)
    for single_value, nonfinite in itertools.product(("keep", "floor", "raise"), ("skip", "propagate")):
        counts = averaging in ("cumulative", "debiased")
        if (counts and single_value == "keep") or (averaging == "debiased" and decay == 1):
            continue  # there is no such configuration
        config = bnspec.BatchNormConfig(
            axis=1, epsilon=1e-5, decay=decay, correction=1, averaging=averaging, single_value=single_value,
            nonfinite=nonfinite, virtual_batch_size=4 if odd == "groups" else None,
        )  # fmt: skip
        if single_value == "raise" and odd == "one value":
            continue
        x, _ = arrays((1 if odd == "one value" else 8, 5), dtype)
        if odd == "nan":
            x[0, 2] = np.nan
        if odd == "huge":
            x[:, 1] *= np.finfo(dtype).max / 100
        params, state = bnspec.init(config, channels=5, like=x)
        if odd == "old inf":
            state = state._replace(var=np.full_like(state.var, np.inf))
        if odd == "full counter" and state.count is not None:
            state = state._replace(count=np.full_like(state.count, np.iinfo(state.count.dtype).max - 1))
        found = []
        for kernels in (KINDS["compiled"], PLAIN):
            with bnspec.use_kernels("numpy", kernels), np.errstate(all="ignore"):
                new = state
                stats = KINDS["compiled"].moments(x, bnspec._types.Groups(1, 2 if odd == "groups" else 1), None)
                for _ in range(3):
                    new = bnspec.update_running(new, stats, config)
                y, saved = bnspec.batch_norm_inference(x, params, new, config)
                found.append([*new, saved.centre, saved.inverse_stddev])
                found[-1].append(y if odd == "" else None)
        assert same_bits(*found), (single_value, nonfinite)
        assert all(a is None or a.dtype == b.dtype for a, b in zip(*found))


@with_numba
@pytest.mark.parametrize("odd", ["swapped", "mixed", "unsigned", "strided", "renorm's fields", "narrow moments"])
def test_odd_states_are_averaged_as_the_specification_does(odd: str) -> None:
    averaging = "cumulative" if odd == "unsigned" else "exponential"
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, averaging=averaging)
    x, _ = arrays((8, 5), "float32")
    stats = KINDS["blocked"].moments(x, bnspec._types.Groups(1, 1), None)
    state = bnspec.init(config, channels=5, like=x)[1]
    if odd == "swapped":
        state = state._replace(mean=state.mean.astype(">f8"), var=state.var.astype(">f8"))
    elif odd == "mixed":
        state = state._replace(mean=state.mean.astype(np.float64))
    elif odd == "unsigned":
        state = state._replace(count=np.full(5, 2**60 + 1, np.uint64))
    elif odd == "strided":
        state = state._replace(mean=np.arange(10.0, dtype=np.float32)[::2])
    elif odd == "narrow moments":
        stats = bnspec.Moments(stats.count, *(v.astype(np.float32) for v in stats[1:]))
    else:
        state = state._replace(renorm_mean=np.ones(5, np.float32), renorm_stddev=np.full(5, 2.0, np.float32))
    found = []
    for kernels in (KINDS["compiled"], PLAIN):
        with bnspec.use_kernels("numpy", kernels):
            found.append(bnspec.update_running(state, stats, config))
    assert same_bits(*found)


@with_numba
@pytest.mark.parametrize("added", [1, 2])
def test_merging_is_that_of_the_specification_to_the_bit(added: int) -> None:
    rng = np.random.default_rng(7)
    channels = 5
    a, b = np.abs(rng.standard_normal((2, 6, (added + 3) * channels)) * 1e3)
    sums = added * channels
    a[:, :sums], b[:, :sums] = rng.integers(1, 9, (2, 6, sums))
    weight = slice(sums - channels, sums)
    a[1, weight] = b[2, weight] = a[3, weight] = b[3, weight] = 0
    a[0, sums - 1] = b[0, sums - 2] = 0  # one channel alone
    a[4, sums], b[5, -1] = np.nan, np.inf
    with np.errstate(all="ignore"):
        wanted = merge_rows(a, b, added)
    assert KINDS["compiled"].merge(a, b, added).tobytes() == wanted.tobytes()
    assert KINDS["compiled"].merge(a[:, ::-1][:, ::-1], b, added).tobytes() == wanted.tobytes()
    narrow = a.astype(np.float32)
    assert KINDS["compiled"].merge(narrow, b, added).tobytes() == merge_rows(narrow, b, added).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_read_in_place_and_other_arrays_copied_and_counted(kind: Any) -> None:
    base, other = arrays((6, 8, 20, 12), "float32")
    groups = bnspec._types.Groups(1, 1)
    views = {
        "some channels": (base[:, 2:5], 0), "transposed": (base.transpose(0, 3, 1, 2), 0), "samples": (base[::3], 0),
        "reversed": (base[::-1], 1), "a window": (base[:, :, 3:9, 2:7], 1),
    }  # fmt: skip
    for name, (x, copies) in views.items():
        before = cpu.resources.counters.copies
        mine, wanted = KINDS[kind].moments(x, groups, None), PLAIN.moments(x, groups, None)
        assert cpu.resources.counters.copies - before == copies, name
        close_sum(mine.m2, wanted.m2, 9 * wanted.m2, x.size, name)
        y = KINDS[kind].normalize(x, wanted.mean, wanted.m2, wanted.mean, groups)
        close(y, PLAIN.normalize(x, wanted.mean, wanted.m2, wanted.mean, groups), "float32", name)
    before = cpu.resources.counters.copies
    x, dy = base.transpose(0, 3, 1, 2), np.ascontiguousarray(other.transpose(0, 3, 1, 2))
    mine = KINDS[kind].grad_sums(dy, x, np.zeros((1, 12)), groups, None)
    assert cpu.resources.counters.copies == before + 1, "dy lies otherwise than x"
    for a, b in zip(mine, PLAIN.grad_sums(dy, x, np.zeros((1, 12)), groups, None)):
        close_sum(a, b, 1e6, x.size, "sums")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strides", [(10, 2, 1), (2, 8, 1), (4, 4, 1), (1, 2, 4), (3, 1, 2)])
def test_windows_that_overlap_are_read_as_they_are(kind: Any, strides: tuple[Any, ...]) -> None:
    x = np.lib.stride_tricks.as_strided(arrays((100,), "float32")[0], (2, 2, 4), [4 * s for s in strides])
    groups = bnspec._types.Groups(1, 1)
    mine, wanted = KINDS[kind].moments(x, groups, None), PLAIN.moments(x, groups, None)
    close_sum(mine.mean + mine.mean_low, wanted.mean + wanted.mean_low, 100.0, x.size, "mean")
    close_sum(mine.m2, wanted.m2, 9 * wanted.m2, x.size, "m2")
    y = KINDS[kind].normalize(x, wanted.mean, wanted.m2, wanted.mean, groups)
    close(y, PLAIN.normalize(x, wanted.mean, wanted.m2, wanted.mean, groups), "float32", "y")


@pytest.mark.parametrize("kind", KINDS)
def test_odd_memory_is_no_obstacle(kind: Any) -> None:
    x = np.frombuffer(b"\0" + np.arange(600, dtype="f4").tobytes(), "f4", offset=1).reshape(30, 20)
    swapped = np.arange(600, dtype=">f4").reshape(30, 20)
    frozen = np.arange(600, dtype="f4").reshape(30, 20)
    frozen.setflags(write=False)
    groups = bnspec._types.Groups(1, 1)
    wanted = PLAIN.moments(frozen, groups, None)
    for odd in (x, swapped, frozen):
        mine = KINDS[kind].moments(odd, groups, None)
        assert same_bits(mine, KINDS[kind].moments(frozen.copy(), groups, None))
        close_sum(mine.m2, wanted.m2, 9 * wanted.m2, x.size, "m2")
        y = KINDS[kind].normalize(odd, mine.mean, mine.m2, mine.mean, groups)
        assert y.dtype == odd.dtype  # its byte order too [BN-SHAPE-3]
        assert y.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_constant_channels_are_exact(kind: Any, data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 30), min_size=2, max_size=4)))
    value = data.draw(st.floats(width=32, allow_nan=False, allow_infinity=False))
    stats = KINDS[kind].moments(np.full(shape, value, np.float32), bnspec._types.Groups(1, 1), None)
    assert (stats.mean == value).all()
    assert not stats.m2.any()
    assert not stats.mean_low.any()


@pytest.mark.parametrize("shape", [(4, 3, 300), (4096, 3), (64, 3, 5)])
def test_an_outlier_where_the_shift_is_taken_costs_no_digit(shape: tuple[Any, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x[:, 0] += 1e6
    x[0, 1] = 1e8
    if x.ndim == 3:
        x[0, 2, :20] = -1e7
    else:
        x[:20, 2] = -1e7
    for kind, kernels in KINDS.items():
        mine, wanted = (
            kernels.moments(x, bnspec._types.Groups(1, 1), None),
            PLAIN.moments(x, bnspec._types.Groups(1, 1), None),
        )
        assert np.abs(mine.m2 / wanted.m2 - 1).max() < 4 * x[:, 0].size * 2.0**-53, kind


@with_numba
def test_a_torch_tensor_is_read_and_written_in_place() -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(4, 8, 6, 6).to(memory_format=torch.channels_last)
    before = cpu.resources.counters.copies
    params, _ = bnspec.init(CONFIG, channels=8, like=x)
    cpu.use("compiled")
    y, _, saved = bnspec.batch_norm(x, params, CONFIG)
    grads = bnspec.batch_norm_vjp(torch.randn(4, 8, 6, 6).to(memory_format=torch.channels_last), saved)
    assert cpu.resources.counters.copies == before
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert grads.x.is_contiguous(memory_format=torch.channels_last)
    wanted = torch.nn.functional.batch_norm(x.double(), None, None, training=True)
    close(y.numpy(), wanted.numpy(), "float32", "y")


def torch_step(kernels: Any, *, second: Any) -> list[Any]:
    """Everything that reaches the parameters through y, the statistics and, twice, the gradient."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    x, dy = (torch.from_numpy(rng.standard_normal((6, 3, 4, 5))).requires_grad_(True) for _ in range(2))
    params = bnspec.Params(*(torch.from_numpy(rng.standard_normal(3)).requires_grad_(True) for _ in range(2)))
    mask = torch.from_numpy(rng.random((6, 1, 4, 5)) < 0.7) if second == "masked" else None
    size = 2 if second == "ghost" else None
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=0, virtual_batch_size=size)
    with bnspec.use_kernels("torch", kernels):
        y, stats, _ = bnspec.batch_norm(x, params, config, mask=mask)
        loss = (y * dy).sum() + (stats.mean * stats.var).sum() + (y**3).sum()
        first = torch.autograd.grad(loss, (x, *params, dy), create_graph=True)
        return [*first, *torch.autograd.grad(sum((g**2).sum() for g in first), (x, *params, dy))]


@with_numba
@pytest.mark.parametrize("second", ["plain", "masked", "ghost"])
def test_torch_differentiates_the_compiled_kernels_twice(second: str) -> None:
    pytest.importorskip("torch")
    from bnspec_backends.cpu.torch_kernels import TorchCpuKernels

    mine = torch_step(TorchCpuKernels(), second=second)
    wanted = torch_step(PLAIN, second=second)
    for a, b in zip(mine, wanted, strict=True):
        close(a.detach().numpy(), b.detach().numpy() + 0.0, "float32", second)


@with_numba
def test_results_come_from_memory_that_was_used_before() -> None:
    x, _ = arrays((64, 64, 400), "float32")
    params = bnspec.Params(np.ones(64, np.float32), np.zeros(64, np.float32))
    cpu.resources.pool.clear()
    with bnspec.use_kernels("numpy", KINDS["compiled"]):
        y = bnspec.batch_norm(x, params, CONFIG)[0]
        address = y.ctypes.data
        row = y[3]
        del y
        other = bnspec.batch_norm(x, params, CONFIG)[0]
        assert other.ctypes.data != address, "a view of the first result is alive"
        kept = row.copy()
        other[...] = 0
        assert (row == kept).all()
        del row
        assert bnspec.batch_norm(x, params, CONFIG)[0].ctypes.data == address


def test_the_pool_is_capped_and_can_be_switched_off() -> None:
    pool = Pool(3 << 20)
    taken = [pool.empty(1 << 20) for _ in range(5)]
    addresses = [a.ctypes.data for a in taken]
    assert all(a % 64 == 0 for a in addresses)
    assert len(set(addresses)) == 5
    while taken:
        taken.pop()
    assert pool.waiting == 3 << 20
    assert pool.empty(1 << 20).ctypes.data in addresses[:3], "the longest unused went first"
    assert pool.reused == 1
    assert pool.empty((1 << 20) + 1).size == (1 << 20) + 1
    assert pool.reused == 1, "nothing that is too small"
    pool.limit = 0
    assert pool.waiting == 0
    one = pool.empty(1 << 20)
    del one
    assert pool.waiting == 0
    pool.limit = 1 << 30
    pool.clear()
    assert pool.waiting == 0


def test_the_pool_serves_many_threads() -> None:
    pool, wrong = Pool(64 << 20), []

    def work(mark: Any) -> None:
        for _ in range(200):
            a = pool.empty((1 << 20) + 64 * mark)
            a[:] = mark
            if not (a == mark).all():
                wrong.append(mark)

    crowd = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in crowd:
        t.start()
    for t in crowd:
        t.join()
    assert not wrong
    assert pool.waiting <= 64 << 20


@with_numba
def test_kernels_may_be_called_from_many_threads() -> None:
    x, dy = arrays((16, 32, 30, 30), "float32")
    affine = np.ones(32, np.float32), np.zeros(32, np.float32)
    with bnspec.use_kernels("numpy", KINDS["compiled"]):
        wanted, wrong = step(x, dy, CONFIG, *affine), []

        def work() -> None:
            for _ in range(10):
                if not same_bits(wanted, step(x, dy, CONFIG, *affine)):
                    wrong.append(threading.current_thread().name)

        crowd = [threading.Thread(target=work) for _ in range(5)]
        for t in crowd:
            t.start()
        for t in crowd:
            t.join()
    assert not wrong


def test_workers_do_every_block_once_and_pass_errors_on() -> None:
    workers = Workers(3)
    seen: list[Any] = []
    workers.run(seen.append, 100)
    assert sorted(seen) == list(range(100))

    def refuse(i: Any) -> None:
        if i == 7:
            raise KeyError(i)

    with pytest.raises(KeyError):
        workers.run(refuse, 20)
    seen.clear()
    workers.run(seen.append, 10)
    assert sorted(seen) == list(range(10))


def run_python(text: str, **environment: Any) -> tuple[Any, ...]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=300,
        env=os.environ | environment, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.strip(), done.stderr.strip()


STEP = """
import numpy as np, bnspec
x = np.arange(2**18, dtype=np.float32).reshape(16, 64, 256) % 977
config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
params, _ = bnspec.init(config, channels=64, like=x)
def step():
    y, stats, saved = bnspec.batch_norm(x, params, config)
    return float(bnspec.batch_norm_vjp(x * x, saved).x[3, 5, 7]), float(stats.m2.sum())
"""


def test_a_forked_child_computes_too() -> None:
    status, said, error = run_python(
        STEP
        + """
import os, warnings
from bnspec_backends import cpu
cpu.resources.threads = 3
before = step()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    child = os.fork()
if child == 0:
    os._exit(0 if step() == before else 9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), step() == before)
"""
    )
    assert (status, said) == (0, "0 True"), error


@with_numba
def test_without_numba_numpy_works_in_blocks_and_compiled_kernels_are_refused() -> None:
    status, said, error = run_python(
        "import sys; sys.modules['numba'] = None\n"
        + STEP
        + """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "numba" else real(name, *a)
from bnspec_backends import cpu
print(cpu.in_use(), type(bnspec.get_backend("numpy").kernels).__name__, step()[1] > 0)
try:
    cpu.use("compiled")
except ImportError as refused:
    print(refused)
print(cpu.in_use())
"""
    )
    lines = said.splitlines()
    assert status == 0, error
    assert lines[0] == "blocked BlockedKernels True"
    assert "pip install bnspec[cpu]" in lines[1]
    assert lines[2] == "blocked"


@with_numba
def test_compiled_code_is_kept_on_disk_and_compiling_is_told_once(tmp_path: Path) -> None:
    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    status, first, told = run_python(STEP + "print(step())\nprint(step())", **folder)
    assert status == 0, told
    assert "compiled CPU kernels for" in told
    assert len(list(tmp_path.rglob("*.nbc"))) > 0
    files = sorted(tmp_path.rglob("*"))
    status, second, told = run_python(STEP + "print(step())\nprint(step())", **folder)
    assert (status, told) == (0, ""), "nothing to compile the second time"
    assert first == second
    assert sorted(tmp_path.rglob("*")) == files


BITS = """
import hashlib
import numpy as np, bnspec
x = (np.arange(2.0 * 40 * 81) * 0.37 % 5.1).reshape(2, 40, 9, 9)
config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
params, _ = bnspec.init(config, channels=40, like=x)
def step(**more):
    y, stats, saved = bnspec.batch_norm(x, params, config, **more)
    return b"".join(v.tobytes() for v in (y, *stats, *bnspec.batch_norm_vjp(x * x, saved)))
"""


@with_numba
def test_bits_depend_neither_on_who_compiled_nor_on_what_was_called_before(tmp_path: Path) -> None:
    """Runs of 81 float64: sums may take any order, and each copy of a loop could be made into other vectors."""
    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    masked = "step(mask=np.arange(2).reshape(2, 1, 1, 1) > -1)\n"
    found = []
    for before in ("", "", masked, masked):  # the first and the third compile
        status, said, told = run_python(
            BITS + before + "print(hashlib.sha256(step()).hexdigest())", **folder, BNSPEC_CPU_KERNELS="compiled"
        )
        assert status == 0, told
        found.append(said)
    assert len(set(found)) == 1


#: One kernel, the one that compiles fastest: what is kept of it, and when, is so for all.
MERGE = """
import numpy as np
from bnspec_backends import cpu
rows = np.arange(1.0, 9.0).reshape(1, 8)
print(cpu.make("compiled").merge(rows, rows, 1).tolist()[0][:2])
"""


@with_numba
def test_code_compiled_from_other_sources_is_not_used(tmp_path: Path) -> None:
    text = "from bnspec_backends.cpu.compiled import dtypes\ndtypes._stamp = lambda: {!r}\n" + MERGE
    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    for stamp, compiles in (("one", True), ("one", False), ("two", True)):
        status, _, told = run_python(text.format(stamp), **folder)
        assert status == 0, told
        assert ("compiled CPU kernels" in told) == compiles, stamp


@with_numba
def test_where_no_folder_can_be_written_compiled_code_is_not_kept() -> None:
    status, said, told = run_python("import numba.core.caching as c; c.CacheImpl._locator_classes = []\n" + MERGE)
    assert (status, said) == (0, "[2.0, 4.0]"), told
    assert "compiled CPU kernels for" in told
    assert "not kept" in told


@with_numba
def test_a_processor_without_vectors_gives_the_same_statistics(tmp_path: Path) -> None:
    text = (
        STEP
        + """
half = bnspec.batch_norm(x.astype(np.float16), params, config)[0]
print(step()[1], half.dtype, round(float(half[3, 5, 7]), 3))
"""
    )
    plain = run_python(text, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))
    own = run_python(text)
    assert plain[0] == own[0] == 0, plain[2] + own[2]
    first, second = (float(said.split()[0]) for _, said, _ in (plain, own))  # sums of 2**12 numbers, added otherwise
    assert abs(first - second) <= 2.0**12 * 2.0**-53 * second
    assert plain[1].split()[1:] == own[1].split()[1:]


def test_the_choice_of_kernels() -> None:
    before = cpu.in_use()
    try:
        for name, kind in (("blocked", "BlockedKernels"), ("specification", "Kernels")):
            cpu.use(name)
            assert type(kernels_for(np.ones((2, 2)))).__name__ == kind
        with pytest.raises(ValueError, match="one of compiled, blocked, specification"):
            cpu.use("fast")
        assert cpu.in_use() == "specification"
    finally:
        cpu.use(before)
    assert type(kernels_for(np.ones((2, 2)))).__name__ == {"compiled": "CompiledKernels"}.get(before, "BlockedKernels")
