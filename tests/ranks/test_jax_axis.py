"""Statistics joined over a named axis of JAX: numbers, gradients of two orders in both modes, groups, refusals."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec_backends.ranks import AxisCommunicator, threads

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy

#: Elements of four ranks that count: all, some, one, none.
COUNTS = (5, 3, 1, 0)
CHANNELS = 3


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def config(**fields: Any) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.9, "correction": 0} | fields))


def given() -> tuple[Any, Any, Any, Any]:
    """x, the weights of a loss, and which elements count, of four ranks; gamma and beta."""
    x, w = np.random.default_rng(0).standard_normal((2, 4, 5, CHANNELS))
    mask = np.arange(5)[None] < np.asarray(COUNTS)[:, None]
    params = bnspec.Params(jnp.asarray([0.5, -1.0, 2.0]), jnp.asarray([0.1, 0.2, 0.3]))
    return jnp.asarray(x * 2 + 3), jnp.asarray(w), jnp.asarray(mask), params


def by_ranks(function: Any, axis: Any = "ranks") -> Any:
    return jax.jit(jax.vmap(function, axis_name=axis, in_axes=(0, 0, 0, None)))  # one program compiles sooner


def joined(x: Any, mask: Any, params: Any, own: Any = None) -> Any:
    return bnspec.batch_norm(x, params, own or config(), mask=mask[:, None], comm=AxisCommunicator("ranks"))


def formula(x: Any, mask: Any, params: Any) -> Any:
    """The whole batch by plain operations, differentiated by JAX."""
    m = mask[..., None].astype(x.dtype)
    n, flat = m.sum(), (0, 1)
    mean = (m * x).sum(flat) / n
    var = (m * (x - mean) ** 2).sum(flat) / n
    return (x - mean) / jnp.sqrt(var + 1e-3) * params.gamma + params.beta, mean, var


def close(found: Any, wanted: Any) -> None:
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-11, atol=1e-11)


def test_uneven_counts_are_those_of_the_whole_batch_on_every_rank() -> None:
    x, _, mask, params = given()

    def rank(x: Any, w: Any, mask: Any, params: Any) -> Any:
        y, stats, _ = joined(x, mask, params)
        return y, stats, bnspec.update_running(bnspec.init(config(), channels=CHANNELS, like=x)[1], stats, config())

    y, stats, state = by_ranks(rank)(x, x, mask, params)
    want, mean, var = formula(x, mask, params)
    close(y, want)
    close((stats.mean + stats.mean_low, stats.var, stats.count), [np.tile(v, (4, 1, 1)) for v in (mean, var, [9] * 3)])
    close(state.mean, np.tile(0.1 * mean, (4, 1)))
    for v in jax.tree.leaves((stats, state)):
        assert all(bytes(np.asarray(v[0])) == bytes(np.asarray(each)) for each in v)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_two_orders_by_ranks_are_those_of_one_process(where: str) -> None:
    """Differentiated on each rank, and from outside of the map: gradients are those of the sum of all losses."""
    x, w, mask, params = given()

    def one(x: Any, w: Any, mask: Any, params: Any) -> Any:  # the mean and var, which all ranks have, count once each
        y, stats, _ = joined(x, mask, params)
        return (y**3 * w).sum() + ((stats.mean**2).sum() + stats.var.sum()) / 4

    def whole(x: Any, params: Any) -> Any:
        y, mean, var = formula(x, mask, params)
        return (y**3 * w).sum() + (mean**2).sum() + var.sum()

    def first(x: Any, params: Any) -> Any:
        if where == "outside":
            return jax.grad(lambda x, p: by_ranks(one)(x, w, mask, p).sum(), (0, 1))(x, params)
        dx, dp = by_ranks(lambda x, w, m, p: jax.grad(one, (0, 3))(x, w, m, p))(x, w, mask, params)
        return dx, jax.tree.map(lambda v: v.sum(0), dp)  # parameters' gradients are a rank's own [BN-SYNC-7]

    def second(first: Any) -> Any:
        return jax.grad(lambda x, p: sum((v**2).sum() for v in jax.tree.leaves(first(x, p))), (0, 1))(x, params)

    explicit = jax.grad(whole, (0, 1))
    close(jax.jit(first)(x, params), explicit(x, params))
    close(jax.jit(second, static_argnums=0)(first), second(explicit))


def test_forward_mode_and_forward_over_reverse() -> None:
    x, w, mask, params = given()
    v = jnp.flip(w, 0)

    def ranks(x: Any) -> Any:
        return by_ranks(lambda x, w, m, p: joined(x, m, p)[0])(x, w, mask, params)

    pushed = jax.jit(lambda x, v: jax.jvp(ranks, (x,), (v,)))(x, v)
    close(pushed, jax.jvp(lambda x: formula(x, mask, params)[0], (x,), (v,)))
    inside = by_ranks(lambda x, v, m, p: jax.jvp(lambda x: joined(x, m, p)[0], (x,), (v,))[1])(x, v, mask, params)
    close(inside, pushed[1])

    def slope(f: Any) -> Any:
        return jax.jit(lambda x: jax.jvp(jax.grad(lambda x: (f(x) ** 2 * w).sum()), (x,), (v,))[1])(x)

    close(slope(ranks), slope(lambda x: formula(x, mask, params)[0]))


@pytest.mark.parametrize(
    "fields",
    [
        {"sync_weighting": "rank"},
        {"virtual_batch_size": 2},
        {"renorm": bnspec.Renorm(rmax=1.2, dmax=0.3)},
    ],
)
def test_options_have_the_numbers_of_threads(fields: dict[str, Any]) -> None:
    """Statistics, y and dx of every option, by JAX and explicitly, are those of ranks that are threads."""
    own = config(**fields)
    x, w, _, params = given()
    x, w = x[:, :4], w[:, :4]
    mask = jnp.asarray(np.arange(4)[None] < np.asarray([[4], [3], [1], [4]]))
    state = bnspec.init(own, channels=CHANNELS, like=x)[1]

    def rank(x: Any, w: Any, mask: Any, params: Any, comm: Any) -> Any:
        used = state if own.renorm else None
        y, stats, saved = bnspec.batch_norm(x, params, own, mask=mask[:, None], state=used, comm=comm)
        return y, stats, bnspec.batch_norm_vjp(w, saved, comm=comm), bnspec.update_running(state, stats, own)

    comm = AxisCommunicator("ranks")
    found = by_ranks(functools.partial(rank, comm=comm))(x, w, mask, params)

    def thread(comm: Any) -> Any:
        with jax.enable_x64(True):  # a thread's own
            return rank(x[comm.rank], w[comm.rank], mask[comm.rank], params, comm)

    each = threads.run(4, thread)
    close(found, jax.tree.map(lambda *parts: np.stack(parts), *each))

    def loss(x: Any, w: Any, mask: Any, params: Any) -> Any:
        used = state if own.renorm else None
        return (bnspec.batch_norm(x, params, own, mask=mask[:, None], state=used, comm=comm)[0] * w).sum()

    close(by_ranks(jax.grad(loss))(x, w, mask, params), found[2].x)


def test_an_array_that_is_not_mapped_is_every_ranks() -> None:
    x, _, _, params = given()

    def rank(number: Any) -> Any:
        y, stats, _ = bnspec.batch_norm(x[0], params, config(), comm=AxisCommunicator("ranks"))
        return y, stats.count + 0 * number

    y, count = jax.jit(jax.vmap(rank, axis_name="ranks"))(jnp.arange(3))
    assert count.tolist() == [[[15] * CHANNELS]] * 3
    close(y, np.stack([formula(x[:1], jnp.ones((1, 5), bool), params)[0][0]] * 3))


def test_groups_join_among_themselves_in_their_order() -> None:
    x, w, mask, params = given()
    comm = AxisCommunicator("ranks", axis_index_groups=[[0, 2], [3, 1]])

    def rank(x: Any, w: Any, mask: Any, params: Any) -> Any:
        y = bnspec.batch_norm(x, params, config(), mask=mask[:, None], comm=comm)[0]
        return y, comm.rank, jnp.asarray(comm.size)

    y, ranks, sizes = by_ranks(rank)(x, w, mask, params)
    assert ranks.tolist() == [0, 1, 1, 0]
    assert sizes.tolist() == [2] * 4
    for group in ([0, 2], [3, 1]):
        chosen = jnp.asarray(group)
        close(y[chosen], formula(x[chosen], mask[chosen], params)[0])
    assert hash(comm) == hash(AxisCommunicator("ranks", ((0, 2), (3, 1))))


def test_many_ranks_and_two_axes_fold_in_one_order() -> None:
    """Eleven and more ranks fold by pairs, and of several axes the last index runs fastest."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((12, 2, CHANNELS)) + 3)
    params = given()[3]

    def order(comm: Any) -> Any:
        # products of matrices depend on their order, and not on which are multiplied first
        own = jnp.asarray([[2.0, 1.0], [0.0, 1.0]]) + comm.rank * jnp.asarray([[0.0, 1.0], [0.0, 0.0]])
        return comm.all_reduce(own, lambda a, b: a @ b, bnspec.Signature(*"abcdef"))

    one, two = AxisCommunicator("a"), AxisCommunicator(("a", "b"))
    for size in (11, 12):
        want = functools.reduce(np.matmul, [np.asarray([[2.0, 1.0 + i], [0.0, 1.0]]) for i in range(size)]).tolist()
        assert jax.vmap(lambda _: order(one), axis_name="a")(x[:size]).tolist() == [want] * size
    grid = jax.vmap(jax.vmap(lambda _: order(two), axis_name="b"), axis_name="a")(x.reshape(3, 4, 2, CHANNELS))
    assert grid.reshape(12, 2, 2).tolist() == [want] * 12

    def ours(x: Any) -> Any:
        return jax.vmap(lambda v: bnspec.batch_norm(v, params, config(), comm=one)[0], axis_name="a")(x)

    def theirs(x: Any) -> Any:
        return formula(x, jnp.ones((12, 2), bool), params)[0]

    for f in (lambda f: f(x), lambda f: jax.grad(lambda x: (f(x) ** 3).sum())(x)):
        close(jax.jit(f, static_argnums=0)(ours), f(theirs))


def test_refusals() -> None:
    x, _, _, params = given()
    comm = AxisCommunicator("ranks")
    outside = r"statistics to be joined over the axis 'ranks', outside.*\[BN-SYNC-9\]\. Map the function over it"
    for run in (lambda f: f(x[0]), lambda f: jax.jit(f)(x[0]), lambda f: jax.vmap(f, axis_name="other")(x)):
        with pytest.raises(TypeError, match=outside):
            run(lambda v: bnspec.batch_norm(v, params, config(), comm=comm, name="bn1")[0])
    with pytest.raises(TypeError, match=outside):
        assert comm.rank
    short = AxisCommunicator("ranks", [[0, 1]])
    with pytest.raises(ValueError, match=r"2 indices for the axis 'ranks' of extent 4.*\[BN-SYNC-9\]"):
        jax.vmap(lambda v: bnspec.batch_norm(v, params, config(), comm=short)[0], axis_name="ranks")(x)
    for groups in ([[0, 1], [2]], [[0, 1], [1, 2]], [], [0, 1], "ab", [[0.0, 1.0]]):
        with pytest.raises(ValueError, match=r"axis_index_groups is .*each index of the axis once \[BN-SYNC-9\]"):
            AxisCommunicator("ranks", groups)
    with pytest.raises(TypeError, match=r"axis_name is None; expected the name of an axis"):
        AxisCommunicator(None)
    numbers = np.ones((2, 3))
    gamma, _ = bnspec.init(config(), channels=3, like=numbers)
    with pytest.raises(TypeError, match=r"a payload of type ndarray for the axis 'ranks'; expected an array of JAX"):
        bnspec.batch_norm(numbers, gamma, config(), comm=comm)


@pytest.mark.parametrize("way", ["jax.jit", "jax.vmap", "jax.grad or jax.jvp"])
def test_other_communicators_are_not_given_tracers(way: str) -> None:
    """The core refuses, so that a communicator of a user's own need not know what JAX traces."""
    x, _, _, params = given()
    sent = []

    class Own:
        rank, size = 0, 1

        def all_reduce(self, payload: Any, combine: Any, signature: Any) -> Any:
            sent.append(payload)
            return payload

    def f(v: Any) -> Any:
        return bnspec.batch_norm(v, params, config(), comm=Own(), name="bn1")[0].sum()

    run = {"jax.jit": jax.jit, "jax.vmap": jax.vmap, "jax.grad or jax.jvp": jax.grad}[way]
    with pytest.raises(
        TypeError, match=rf"bn1: statistics of ranks to be joined, inside {way}; .*\[BN-SYNC-9\]\. .*AxisC"
    ):
        run(f)(x if way == "jax.vmap" else x[0])
    assert not sent
    assert bool(f(x[0]).shape == ())
    assert len(sent) == 1


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import bnspec
from bnspec_backends.ranks import AxisCommunicator

jax.config.update("jax_enable_x64", True)
config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=1)
rng = np.random.default_rng(0)
x, w = jnp.asarray(rng.standard_normal((8, 3)) + 5), jnp.asarray(rng.standard_normal((8, 3)))
mask = jnp.asarray([1, 1, 1, 0, 0, 0, 1, 1], bool)[:, None]          # a rank with one element, a rank with none
params, state = bnspec.init(config, channels=3, like=x)
def whole(x, w, mask, params, state, comm=None):
    y, stats, _ = bnspec.batch_norm(x, params, config, mask=mask, comm=comm)
    return y, bnspec.update_running(state, stats, config)
def loss(x, w, mask, params, state, comm=None):
    return (whole(x, w, mask, params, state, comm)[0] ** 3 * w).sum()
want = whole(x, w, mask, params, state)
slopes = jax.grad(loss, (0, 3))(x, w, mask, params, state)
turn = jax.jvp(jax.grad(lambda x: loss(x, w, mask, params, state)), (x,), (w,))[1]
def same(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-11, atol=1e-11)

comm, mesh = AxisCommunicator("ranks"), Mesh(np.array(jax.devices()), ("ranks",))
spec = (P("ranks"), P("ranks"), P("ranks"), P(), P())
def mapped(f, out, **more):
    return jax.jit(jax.shard_map(lambda *v: f(*v, comm=comm), mesh=mesh, in_specs=spec, out_specs=out, **more))
for more in ({}, {"check_vma": False}):
    same(mapped(whole, (P("ranks"), P()), **more)(x, w, mask, params, state), want)     # the state is replicated
    f = mapped(lambda *v, comm: jax.lax.psum(loss(*v, comm=comm), "ranks"), P(), **more)
    same(jax.grad(f, (0, 3))(x, w, mask, params, state), slopes)                        # from outside
    f = lambda x: mapped(lambda *v, comm: jax.lax.psum(loss(*v, comm=comm), "ranks"), P(), **more)(
        x, w, mask, params, state)
    same(jax.jvp(jax.grad(f), (x,), (w,))[1], turn)
    inner = mapped(lambda *v, comm: jax.grad(lambda *u: loss(*u, comm=comm))(*v), P("ranks"), **more)
    same(inner(x, w, mask, params, state), slopes[0])                                   # on each device
inner = mapped(lambda *v, comm: jax.grad(lambda *u: loss(*u, comm=comm), 3)(*v), P())   # JAX adds what is replicated
same(inner(x, w, mask, params, state), slopes[1])

split = lambda v: v.reshape(4, 2, *v.shape[1:])
parts = tuple(map(split, (x, w, mask)))
y, new = jax.pmap(lambda x, w, m: whole(x, w, m, params, state, comm), axis_name="ranks")(*parts)
same((y.reshape(8, 3), jax.tree.map(lambda v: v[2], new)), want)
dx = jax.pmap(jax.grad(lambda x, w, m: loss(x, w, m, params, state, comm)), axis_name="ranks")(*parts)
same(dx.reshape(8, 3), slopes[0])

grid = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
both = AxisCommunicator(("a", "b"))
f = jax.shard_map(lambda x, w, m: whole(x, w, m, params, state, both), mesh=grid, in_specs=P(("a", "b")),
                  out_specs=(P(("a", "b")), P()))
same(jax.jit(f)(x, w, mask), want)
pairs = AxisCommunicator("ranks", ((0, 1), (2, 3)))
f = jax.shard_map(lambda x: bnspec.batch_norm(x, params, config, comm=pairs)[0], mesh=mesh, in_specs=P("ranks"),
                  out_specs=P("ranks"))
same(jax.jit(f)(x), jnp.concatenate([bnspec.batch_norm(v, params, config)[0] for v in (x[:4], x[4:])]))

# Many steps on the devices: the state is a carry that JAX knows to be replicated.
def steps(x, w, mask, params, state, comm):
    def step(state, mask):
        y, new = whole(x, w, mask, params, state, comm)
        return new, y
    return jax.lax.scan(step, state, jnp.stack([mask, mask]))
two = whole(x, w, mask, params, want[1])
last, ys = mapped(steps, (P(), P(None, "ranks")))(x, w, mask, params, state)
same((ys[1], last), two)

# Sharded arrays in a jitted function: one program on the whole batch, and nothing to say.
put = lambda v: jax.device_put(v, NamedSharding(mesh, P("ranks")))
found = jax.jit(whole)(put(x), put(w), put(mask), params, state)
same(found, want)
assert found[0].sharding.spec == P("ranks") and found[1].mean.sharding.is_fully_replicated
same(jax.jit(jax.grad(loss, (0, 3)))(put(x), put(w), put(mask), params, state), slopes)
print("done")
"""


@pytest.mark.skipif(importlib.util.find_spec("hypothesis") is None, reason="the suite is not installed")
@pytest.mark.parametrize(
    ("subject", "clauses"), [("jax-axis", ["BN-SYNC-1", "BN-SYNC-7"]), ("jax-nested", ["BN-SYNC-1"])]
)
def test_clauses_run_on_it(subject: str, clauses: list[str], tmp_path: Path) -> None:
    """In a process of its own, where the subject may choose how many devices there are."""
    report = tmp_path / "report.json"
    given = ["run", subject, *(word for clause in clauses for word in ("--clause", clause)), "--max-examples", "1"]
    given += ["--sizes", "none", "--json", str(report)]
    ran = subprocess.run(
        [sys.executable, "-m", "bnspec_conformance", *given], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(report.read_text())["clauses"]
    assert {found[clause]["subjects"][subject]["verdict"] for clause in clauses} <= {"passed", "passed in part"}


def test_devices() -> None:
    """Four devices, in a process of its own: shard_map with and without check_vma, pmap, two axes, and no axis."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "done\n", ran.stderr
