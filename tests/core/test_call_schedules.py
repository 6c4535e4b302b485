"""Numbers given at the call: those of a configuration that has them, in every library, and no new trace for others."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bnspec

X = np.random.default_rng(3).standard_normal((8, 3)).astype(np.float32) * 2 + 1
NUMBERS = {"rmax": 1.25, "dmax": 0.5, "decay": 0.75}


def config(**fields: Any) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(
        **(
            {"axis": 1, "epsilon": 1e-3, "decay": 0.9, "correction": 0, "renorm": bnspec.Renorm(rmax=3, dmax=5)}
            | fields
        )
    )


def with_numbers(own: bnspec.BatchNormConfig, rmax: float, dmax: float, decay: float) -> bnspec.BatchNormConfig:
    assert own.renorm is not None
    return dataclasses.replace(own, decay=decay, renorm=dataclasses.replace(own.renorm, rmax=rmax, dmax=dmax))


def outcome(x: Any, own: bnspec.BatchNormConfig, schedule: bnspec.Schedule | None = None) -> list[Any]:
    """y, r, d and dx, and the state after."""
    params, state = bnspec.init(own, channels=3, like=x)
    y, stats, saved = bnspec.batch_norm(x, params, own, state=state, schedule=schedule)
    new = bnspec.update_running(state, stats, own, schedule=schedule)
    applied, other = bnspec.apply(x, params, state, own, train=True, schedule=schedule)
    results = [y, saved.r, saved.d, bnspec.batch_norm_vjp(x, saved).x, *new]
    same = zip([applied, *other], [y, *new], strict=True)
    assert all(a is b is None or bytes(np.asarray(a)) == bytes(np.asarray(b)) for a, b in same)
    assert saved.static.config == own
    return [np.asarray(v) for v in results if v is not None]


@pytest.mark.parametrize("form", ["tensorpack", "paper"])
@pytest.mark.parametrize("library", ["numpy", "strict", "torch", "jax"])
def test_numbers_are_those_of_a_configuration_to_the_bit(library: str, form: Any) -> None:
    try:
        x = bnspec.get_backend(library).asarray(X)
    except ImportError as error:
        pytest.skip(f"{library} is not installed: {error}")
    own = config(renorm=bnspec.Renorm(form=form, rmax=3, dmax=5))
    want = outcome(x, with_numbers(own, **NUMBERS))
    assert max(np.max(np.abs(v - w)) for v, w in zip(want, outcome(x, own), strict=True)) > 0.1
    for schedule in (bnspec.Schedule(**NUMBERS), bnspec.Schedule(**{k: np.float64(v) for k, v in NUMBERS.items()})):
        for v, w in zip(outcome(x, own, schedule), want, strict=True):
            assert v.tobytes() == w.tobytes()
    arrays = bnspec.Schedule(**{k: bnspec.get_backend(library).asarray(np.float32(v)) for k, v in NUMBERS.items()})
    for v, w in zip(outcome(x, own, arrays), want, strict=True):  # not read in JAX, so computed another way
        np.testing.assert_allclose(v, w, rtol=1e-6, atol=1e-6)
        assert v.dtype == w.dtype


def test_numbers_that_are_absent_are_the_configurations() -> None:
    want = outcome(X, config())
    for schedule in (bnspec.Schedule(), bnspec.Schedule(rmax=3.0), bnspec.Schedule(decay=0.9, dmax=5)):
        assert all(v.tobytes() == w.tobytes() for v, w in zip(outcome(X, config(), schedule), want, strict=True))


def test_ranks_see_another_schedule() -> None:
    """Numbers that ranks can compare are compared, as those of a configuration are."""
    from bnspec_backends.ranks import threads

    def rank(comm: Any) -> Any:
        params, state = bnspec.init(config(), channels=3, like=X)
        schedule = bnspec.Schedule(rmax=1.0 + comm.rank)
        return bnspec.apply(X, params, state, config(), train=True, comm=comm, schedule=schedule)

    with pytest.raises(bnspec.CollectiveMismatch, match=r"options\.renorm"):
        threads.run(2, rank)


# --- JAX --------------------------------------------------------------------------------------------------------------


def test_a_schedule_makes_no_new_trace() -> None:
    jax = pytest.importorskip("jax")
    traces, x, own = [], jax.numpy.asarray(X), config()
    params, state = bnspec.init(own, channels=3, like=x)

    @jax.jit
    def step(x: Any, state: Any, schedule: Any) -> Any:
        traces.append(schedule)
        return bnspec.apply(x, params, state, own, train=True, schedule=schedule)

    for numbers in (NUMBERS, {"rmax": 1.0, "dmax": 0.0, "decay": 1.0}, {"rmax": 2.0, "dmax": 1.0, "decay": 0.0}):
        found = jax.tree.leaves(step(x, state, bnspec.Schedule(**numbers)))
        want = jax.tree.leaves(bnspec.apply(x, params, state, with_numbers(own, **numbers), train=True))
        for v, w in zip(found, want, strict=True):
            np.testing.assert_allclose(v, w, rtol=2e-6, atol=2e-6)
    assert len(traces) == 1

    def loss(x: Any, schedule: Any) -> Any:
        return (bnspec.batch_norm(x, params, own, state=state, schedule=schedule)[0] ** 3).sum()

    schedule = bnspec.Schedule(**{k: jax.numpy.asarray(v) for k, v in NUMBERS.items()})
    dx, constants = jax.jit(jax.grad(loss, (0, 1)))(x, schedule)
    assert [float(v) for v in constants] == [0.0, 0.0, 0.0]
    with_config = jax.jit(jax.grad(lambda x: (bnspec.batch_norm(x, params, with_numbers(own, **NUMBERS), state=state)[0]
                                              ** 3).sum()))  # fmt: skip
    np.testing.assert_allclose(dx, with_config(x), rtol=1e-5, atol=1e-5)

    whole = jax.jit(lambda s: bnspec.batch_norm(x, params, own, state=state, schedule=s)[0])  # of Python's integers
    np.testing.assert_allclose(whole(bnspec.Schedule(3, 5)), whole(bnspec.Schedule(3.0, 5.0)))

    many = bnspec.Schedule(rmax=jax.numpy.asarray([1.0, 1.25]), dmax=jax.numpy.asarray([0.0, 0.5]))
    y = jax.jit(jax.vmap(lambda s: bnspec.batch_norm(x, params, own, state=state, schedule=s)[0]))(many)
    for i, (rmax, dmax) in enumerate([(1.0, 0.0), (1.25, 0.5)]):
        alone = bnspec.batch_norm(x, params, with_numbers(own, rmax, dmax, 0.9), state=state)[0]
        np.testing.assert_allclose(y[i], alone, rtol=2e-6, atol=2e-6)


def test_the_weights_0_and_1_are_exact_where_they_are_not_known() -> None:
    """[BN-RUN-11], also for batch values and old values that are not finite."""
    jax = pytest.importorskip("jax")
    own = config(renorm=None)
    x = jax.numpy.asarray(X).at[0, 1].set(np.nan)
    params, state = bnspec.init(own, channels=3, like=x)
    state = state._replace(var=state.var.at[2].set(np.inf))
    stats = bnspec.batch_norm(x, params, own)[1]
    for decay in (0.0, 1.0):
        new = bnspec.update_running(state, stats, own, schedule=bnspec.Schedule(decay=jax.numpy.asarray(decay)))
        want = bnspec.update_running(state, stats, dataclasses.replace(own, decay=decay))
        assert [bytes(np.asarray(v)) for v in new[:2]] == [bytes(np.asarray(v)) for v in want[:2]]


@pytest.mark.parametrize(("field", "bad"), [("rmax", 0.5), ("rmax", np.inf), ("dmax", -1.0), ("decay", 1.5)])
def test_what_cannot_be_read_and_is_out_of_range_shows(field: str, bad: float) -> None:
    jax = pytest.importorskip("jax")
    x, own = jax.numpy.asarray(X), config()
    params, state = bnspec.init(own, channels=3, like=x)
    schedule = bnspec.Schedule(**{field: jax.numpy.asarray(bad)})
    y, new = bnspec.apply(x, params, state, own, train=True, schedule=schedule)
    assert bool(np.isnan(new.mean if field == "decay" else y).all())


@pytest.mark.parametrize("before", ["import jax, bnspec", "import bnspec"])
def test_a_configuration_is_static_from_the_first_call_on(before: str) -> None:
    """As an argument of a jitted function, in a process where nothing of bnspec ran on JAX."""
    import subprocess
    import sys

    pytest.importorskip("jax")
    program = f"""
{before}
config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
import jax, numpy as np
if {before!r} == "import bnspec":                       # made before JAX was there, so it is told by what comes next
    bnspec.init(config, channels=2, like=jax.numpy.ones(2))
traced = []
@jax.jit
def f(config, x):
    traced.append(config)
    return x * config.decay
again = bnspec.BatchNormConfig.from_json(config.to_json())
assert float(f(config, 2.0)) == float(f(again, 2.0)) == np.float32(1.8)
assert traced == [config] and jax.tree.leaves(config) == []
print("done")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout == "done\n", ran.stderr


# --- what is refused, and evaluation ----------------------------------------------------------------------------------

PLAIN = config(renorm=None)
REFUSED: list[tuple[Any, bnspec.BatchNormConfig, type[Exception], str]] = [
    ({"rmax": 2.0}, config(), TypeError, r"bn1: schedule is a dict of 1; expected a bnspec.Schedule or None"),
    (
        bnspec.Schedule(rmax=0.5),
        config(),
        ValueError,
        r"bn1: schedule.rmax is 0.5; expected a finite number >= 1 \[BN-RE",
    ),
    (bnspec.Schedule(rmax=np.inf), config(), ValueError, r"schedule.rmax is inf; expected a finite"),
    (
        bnspec.Schedule(dmax=-1),
        config(),
        ValueError,
        r"schedule.dmax is -1; expected a finite number >= 0 \[BN-RENORM-9\]",
    ),
    (bnspec.Schedule(decay=2), PLAIN, ValueError, r"schedule.decay is 2; expected a number in \[0, 1\] \[BN-RUN-1\]"),
    (bnspec.Schedule(decay="0.9"), PLAIN, TypeError, r"schedule.decay is '0.9'"),
    (bnspec.Schedule(decay=True), PLAIN, TypeError, r"schedule.decay is True"),
    (bnspec.Schedule(decay=np.asarray([0.5, 0.5])), PLAIN, TypeError, r"schedule.decay is an array of shape \(2,\)"),
    (bnspec.Schedule(rmax=2.0), PLAIN, ValueError, r"a schedule of rmax without renorm; expected a configuration with"),
    (bnspec.Schedule(decay=0.5), config(renorm=None, averaging="pooled"), ValueError, r"decay with averaging='pooled'"),
    (bnspec.Schedule(decay=0.5), config(renorm=None, averaging="debiased"), ValueError, r"averaging='debiased'.*RUN-1"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals(number: int) -> None:
    schedule, own, kind, text = REFUSED[number]
    params, state = bnspec.init(own, channels=3, like=X)
    _, stats, _ = bnspec.batch_norm(X, params, own, state=state)
    calls: list[Callable[[], Any]] = [
        lambda: bnspec.batch_norm(X, params, own, state=state, schedule=schedule, name="bn1"),
        lambda: bnspec.update_running(state, stats, own, schedule=schedule, name="bn1"),
        lambda: bnspec.apply(X, params, state, own, train=True, schedule=schedule, name="bn1"),
        lambda: bnspec.apply(X, params, state, own, train=False, schedule=schedule, name="bn1"),
    ]
    for call in calls:
        with pytest.raises(kind, match=text):
            call()


def test_refusals_of_arrays_that_are_not_read() -> None:
    jax = pytest.importorskip("jax")
    x, own = jax.numpy.asarray(X), config()
    params, state = bnspec.init(own, channels=3, like=x)
    for bad, text in (
        (
            jax.numpy.ones(3),
            r"schedule.rmax is an array of shape \(3,\) and dtype float32; expected a number, or an arr",
        ),
        (jax.numpy.asarray(True), r"schedule.rmax is True"),
    ):
        with pytest.raises(TypeError, match=text):
            bnspec.batch_norm(x, params, own, state=state, schedule=bnspec.Schedule(rmax=bad))
    with pytest.raises(TypeError, match=r"x is a numpy array and schedule.rmax a jax array.*BN-ERR-3"):
        outcome(X, own, bnspec.Schedule(rmax=jax.numpy.asarray(2.0)))


def test_torch_records_no_schedule() -> None:
    torch = pytest.importorskip("torch")
    x, own = torch.asarray(X), config()
    params, state = bnspec.init(own, channels=3, like=x)

    def f(x: Any) -> Any:
        return bnspec.apply(x, params, state, own, train=True, schedule=bnspec.Schedule(rmax=2.0))[0]

    with pytest.raises(Exception, match="a schedule while torch records a graph"):
        torch.compile(f, backend="eager", fullgraph=True)(x)


def test_evaluation_is_inference_and_checks_what_it_does_not_use() -> None:
    params, state = bnspec.init(PLAIN, channels=3, like=X)
    mask = np.arange(8)[:, None] < 5
    y, same = bnspec.apply(X, params, state, PLAIN, train=False, mask=mask, schedule=bnspec.Schedule(decay=0.5))
    assert same is state
    assert y.tobytes() == bnspec.batch_norm_inference(X, params, state, PLAIN)[0].tobytes()
    for bad, kind, text in (
        ({"mask": np.ones((3, 1), bool)}, ValueError, "BN-MASK-7"),
        ({"lengths": np.ones(8, int)}, ValueError, "BN-MASK-9"),
        ({"comm": "mpi"}, TypeError, "BN-ERR-5"),
    ):
        with pytest.raises(kind, match=text):
            bnspec.apply(X, params, state, PLAIN, train=False, **bad)
    for train in (1, "yes", None):
        with pytest.raises(TypeError, match=r"batch_norm: train is .*; expected True or False \[BN-INF-2\]"):
            bnspec.apply(X, params, state, PLAIN, train=train)
