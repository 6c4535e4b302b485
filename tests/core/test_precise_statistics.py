"""Exact statistics of many batches, beside a plain recomputation over all elements at once."""

import dataclasses
import importlib.util
from typing import Any

import numpy as np
import pytest
from comparisons import bits
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

import bnspec
from bnspec._layer.initializers import to_numpy
from bnspec_backends.ranks import threads

#: Roundings to float64 that an element can meet: one for each addition, and ten for each merge.
U64 = 2.0**-53


def config(**fields: Any) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.9, "correction": 0} | fields))


def collected(options: bnspec.BatchNormConfig, *batches: Any, masks: Any = None) -> Any:
    p = bnspec.PreciseStatistics(options)
    for i, x in enumerate(batches):
        p.update(x, mask=None if masks is None else masks[i])
    return p


def wanted(options: bnspec.BatchNormConfig, xs: Any, masks: Any) -> tuple[Any, ...]:
    """Mean, variance, and mean absolute deviation of each channel of NumPy arrays (N, C), in extended precision."""
    found = []
    for c in range(xs[0].shape[1]):
        v = np.concatenate([x[:, c][m[:, c]] for x, m in zip(xs, masks, strict=True)]).astype(np.longdouble)
        mean = v.sum() / v.size
        found.append((mean, ((v - mean) ** 2).sum() / (v.size - options.correction), abs(v - mean).mean()))
    return tuple(np.asarray(row, np.float64) for row in zip(*found, strict=True))


@settings(deadline=None)
@given(data=st.data())
def test_any_batches_in_any_order_are_one_population(data: st.DataObject) -> None:
    draw = data.draw
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum), label="sizes")
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]), label="dtype")
    centre = draw(st.sampled_from([0.0, 10.0, -1e4 if dtype == "float16" else 1e6]), label="centre")
    rng = np.random.default_rng(draw(st.integers(0, 99), label="seed"))
    options = config(correction=0, averaging=draw(st.sampled_from(["exponential", "pooled", "cumulative", "debiased"])))
    xs = [(centre + rng.standard_normal((n, 3))).astype(dtype) for n in sizes]
    masks = [rng.random((n, 3)) < draw(st.sampled_from([0.5, 1.0]), label="share that counts") for n in sizes]
    first = next(i for i, n in enumerate(sizes) if n)
    masks[first][0] = True
    order = draw(st.permutations(range(len(sizes))), label="order")
    p = collected(options, *[xs[i] for i in order], masks=[masks[i] for i in order])
    n, merges = sum(sizes), len(sizes)
    mean, var, spread = wanted(options, xs, masks)
    state = p.state()
    found = [to_numpy(v).astype(np.float64) for v in bnspec.running_statistics(state, options)]
    u = 2.0 ** (-53 if dtype == "float64" else -24) * (4 if options.averaging == "debiased" else 1)
    depth = (n + 10 * merges + 3) * U64
    assert (abs(found[0] - mean) <= u * abs(mean) + depth * spread).all()
    assert (abs(found[1] - var) <= (u + 2 * depth) * var + (depth * spread) ** 2).all()
    assert p.count in (tuple(sum(m[:, c].sum() for m in masks) for c in range(3)), (n,))


@pytest.mark.parametrize("averaging", ["exponential", "cumulative", "pooled", "debiased"])
@pytest.mark.parametrize("correction", [0, 1])
def test_the_state_has_the_form_that_the_configuration_reads(averaging: Any, correction: Any) -> None:
    options = config(averaging=averaging, correction=correction, decay=0.7)
    x = 1000 + np.random.default_rng(0).standard_normal((24, 3))
    p = collected(options, x[:2], x[2:9], x[9:])
    p.update(x[:0])  # no update: it holds nothing
    state = p.state()
    count = {"exponential": None, "cumulative": [3] * 3, "pooled": [24] * 3, "debiased": [3] * 3}[averaging]
    assert (None if state.count is None else state.count.tolist()) == count
    mean, var = bnspec.running_statistics(state, options)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-15)
    np.testing.assert_allclose(var, x.var(0, ddof=correction), rtol=1e-12)
    params, _ = bnspec.init(options, channels=3, like=x)
    _, stats, _ = bnspec.batch_norm(x, params, options)
    bnspec.update_running(state, stats, options)  # training goes on from it


@pytest.mark.parametrize("form", ["tensorpack", "paper"])
def test_renorm_remembers_deviations(form: Any) -> None:
    options = config(renorm=bnspec.Renorm(form=form, rmax=2.0, dmax=1.0), correction=1)
    x = np.random.default_rng(0).standard_normal((12, 2)) * 3 + 1
    state = collected(options, x[:5], x[5:]).state()
    sigma = np.sqrt(x.var(0, ddof=1) + options.epsilon)
    np.testing.assert_allclose(state.stddev, sigma, rtol=1e-14)
    if form == "tensorpack":
        np.testing.assert_allclose(state.renorm_mean, x.mean(0), rtol=1e-14)
        np.testing.assert_allclose(state.renorm_stddev, sigma, rtol=1e-14)
    params, fresh = bnspec.init(options, channels=2, like=x)
    assert [v is None for v in state] == [v is None for v in fresh]
    y, _, _ = bnspec.batch_norm(x, params, options, state=state)
    np.testing.assert_allclose(y, (x - x.mean(0)) / sigma, atol=1e-12)  # r undoes the batch's own variance, d is 0


def test_ghost_groups_and_moments_that_are_there_already() -> None:
    options = config(virtual_batch_size=4, ghost_source="first")
    x = np.random.default_rng(1).standard_normal((24, 2)) + 1e5
    params, _ = bnspec.init(options, channels=2, like=x)
    p, mask = bnspec.PreciseStatistics(options), np.arange(24)[:, None] % 5 > 0
    for part in (slice(0, 8), slice(8, 24)):
        _, stats, _ = bnspec.batch_norm(x[part], params, options, mask=mask[part])
        p.update(x[part], stats=stats)
    plain = collected(options, x, masks=[mask])
    assert p.count == plain.count == (int(mask.sum()),)
    np.testing.assert_allclose(p.state().var, plain.state().var, rtol=1e-13)
    np.testing.assert_allclose(p.state().mean, x[mask[:, 0]].mean(0), rtol=1e-15)


@pytest.mark.parametrize("averaging", ["exponential", "cumulative", "pooled"])
@pytest.mark.parametrize("weighting", ["count", "rank"])
def test_ranks_with_uneven_and_no_batches(averaging: Any, weighting: Any) -> None:
    options = config(averaging=averaging, correction=1, sync_weighting=weighting)
    x = np.random.default_rng(2).standard_normal((20, 3)) + 1e4
    parts = [[x[:1], x[1:7]], [x[:0]], [x[7:], x[7:8][:0]]]

    def rank(comm: bnspec.Communicator) -> Any:
        return collected(options, *parts[comm.rank]).state(comm=comm)

    states = threads.run(3, rank)
    assert bits(states[0]) == bits(states[1]) == bits(states[2])
    np.testing.assert_allclose(states[0].mean, x.mean(0), rtol=1e-15)
    np.testing.assert_allclose(states[0].var, x.var(0, ddof=1), rtol=1e-12)
    if averaging != "exponential":
        assert states[0].count.tolist() == [20 if averaging == "pooled" else 3] * 3


@pytest.mark.parametrize("ranks", [1, 2])
def test_counts_beyond_the_integers_and_floats_of_a_library(ranks: int) -> None:
    """JAX without x64 has int32 and float32; a weight in float32 would lose the one element that counts here."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    if jax.config.jax_enable_x64:
        pytest.skip("this process has int64")
    xp = jax.numpy
    half = 2**30 + 1
    stats = bnspec.Moments(xp.asarray([half]), xp.ones((1, 1)), xp.zeros((1, 1)), xp.full((1, 1), float(half)))

    def rank(comm: Any) -> Any:
        p = bnspec.PreciseStatistics(config(averaging="pooled"))
        for _ in range(4):
            p.update(xp.ones((1, 1)), stats=stats)
        assert p.count == (4 * half,)
        return p.state(comm=comm)

    state = rank(None) if ranks == 1 else threads.run(2, rank)[0]
    assert state.var.tolist() == [1.0]
    assert state.count.tolist() == [2**31 - 1]  # its counter stops


@pytest.mark.parametrize("name", ["array_api_strict", "jax", "torch"])
def test_other_libraries(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    x = (np.random.default_rng(3).standard_normal((10, 4, 3)) + 50).astype("float32")
    lengths = np.asarray([3, 4, 0, 1, 2, 4, 4, 4, 1, 2])
    backend = bnspec.get_backend("strict" if name == "array_api_strict" else name)
    options = config(axis=2)
    p = bnspec.PreciseStatistics(options)
    for part in (slice(0, 3), slice(3, 10)):
        p.update(backend.asarray(x[part]), lengths=backend.asarray(lengths[part]))
    state = p.state()
    kept = x[np.arange(4) < lengths[:, None]].astype("float64")
    assert str(state.mean.dtype).endswith("float32")
    np.testing.assert_allclose(backend.to_numpy(state.mean), kept.mean(0), rtol=1e-7)
    np.testing.assert_allclose(backend.to_numpy(state.var), kept.var(0), rtol=1e-6)


def test_no_channels_and_counts_of_both_kinds() -> None:
    x, mask = np.ones((3, 2)), np.asarray([[True, False], [True, True], [True, True]])
    assert collected(config(), x, x, masks=[None, mask]).count == (6, 5)
    for order in ([None, mask[:, :0]], [mask[:, :0], None]):
        state = collected(config(averaging="pooled"), x[:, :0], x[:, :0], masks=order).state()
        assert state.mean.shape == state.count.shape == (0,)


def test_nothing_of_a_graph_is_kept() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.ones(4, 2).requires_grad_()
    assert not collected(config(), x * 2).state().mean.requires_grad


def test_batches_that_are_not_finite() -> None:
    x, bad = np.asarray([[1.0, 2.0], [3.0, 5.0]]), np.asarray([[1.0, np.nan], [2.0, 0.0]])
    p = collected(config(nonfinite="skip"), x, bad)
    assert p.count == (4, 2)
    np.testing.assert_allclose(p.state().mean, [7 / 4, 3.5])
    assert np.isnan(collected(config(), x, bad).state().mean).tolist() == [False, True]
    p = collected(config(nonfinite="raise"), x)
    text = "batch_norm: statistics that are not finite in channels [1]; expected finite statistics [BN-RUN-10]. "
    with refused(FloatingPointError, text + 'Look for NaN or overflow in x, or choose nonfinite="skip".', vars(p)):
        p.update(bad)


@pytest.mark.parametrize("single", ["raise", "keep", "floor"])
def test_too_few_elements(single: Any) -> None:
    p = collected(config(correction=1, single_value=single), np.ones((1, 2)))
    if single == "floor":
        assert p.state().var.tolist() == [0.0, 0.0]
        return
    text = "batch_norm: precise statistics of 1 element in channels [0, 1]; expected more than 1 for correction=1 "
    advice = '[BN-RUN-4]. Use more data, correction=0, or single_value="floor"; there is no older variance to keep.'
    with refused(ValueError, text + advice, vars(p)):
        p.state()


def test_statistics_of_nothing_are_refused() -> None:
    p = bnspec.PreciseStatistics(config(), name="stem")
    advice = "Update with a batch before; look at the mask, and under ranks at how many batches each one had."
    expected = f"expected at least one element in each channel [BN-RUN-9]. {advice}"
    with refused(ValueError, f"stem: precise statistics of no batch; {expected}"):
        p.state()
    p.update(np.ones((2, 2)), mask=np.asarray([[True, False]]))
    with refused(ValueError, f"stem: precise statistics of no element in channels [1]; {expected}", vars(p)):
        p.state()


def test_batches_that_do_not_fit_change_nothing() -> None:
    p = collected(config(), np.ones((2, 2)))
    with refused(
        ValueError,
        "batch_norm: x of shape (2, 3) has 3 channels on axis 1; expected 2 channels, as the batches before "
        "[BN-MOM-7]. Collect the statistics of each layer by an object of its own.",
        vars(p),
    ):
        p.update(np.ones((2, 3)))
    stats = bnspec.moments(np.ones((2, 3)), bnspec.Groups(1, 1))
    with refused(
        ValueError,
        "batch_norm: stats.m2 has shape (1, 3); expected (G, 2), for x of shape (2, 2) [BN-MOM-7]. "
        "Pass what bnspec.batch_norm returned for this x.",
        vars(p),
    ):
        p.update(np.ones((2, 2)), stats=stats)
    for wrong, kind in (({"mask": np.ones(3, bool)}, ValueError), ({"stats": (1, 2)}, TypeError)):
        before = bits(vars(p))
        with pytest.raises(kind):
            p.update(np.ones((2, 2)), **wrong)
        assert bits(vars(p)) == before
    with pytest.raises(TypeError, match="BN-ERR-1"):
        bnspec.PreciseStatistics(dataclasses.asdict(config()))
    with pytest.raises(TypeError, match="BN-ERR-5"):
        p.state(comm="mpi")


def test_transformations_are_refused() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    p, x = collected(config()), jax.numpy.ones((2, 2))
    for function, given_x in ((lambda v: p.update(v), x), (lambda _: p.update(x), x)):
        with pytest.raises(RuntimeError, match=r"precise statistics inside jax.jit; .*\[BN-DET-3\]"):
            jax.jit(function)(given_x)
        assert p.count == ()
