"""`bnspec.Kernels` is the only seam: every operation goes through it, and each method can be replaced alone."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec_backends.ranks import threads

PRIMITIVES = ("moments", "normalize", "grad_sums", "grad_input")


def parts(groups: Any, *arrays: Any) -> Iterator[list[Any]]:
    """Yield, per group, the arrays as (elements, C) in float64; None stays None."""
    samples, shape = len(arrays[0]) // groups.number, arrays[0].shape
    for j in range(groups.number):
        rows = slice(j * samples, (j + 1) * samples)
        cut = [None if a is None else np.broadcast_to(a, shape)[rows].astype(float) for a in arrays]
        yield [None if a is None else np.moveaxis(a, groups.axis, -1).reshape(-1, shape[groups.axis]) for a in cut]


def whole(rows: Any, groups: Any, like: Any) -> Any:
    """Undo `parts`."""
    shape = np.moveaxis(like, groups.axis, -1).shape
    return np.moveaxis(np.concatenate(rows).reshape(shape), -1, groups.axis).astype(like.dtype)


class Toy(bnspec.Kernels):
    """The primitives in plain NumPy float64, a loop over groups, written without looking at the specification's."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def moments(self, x: Any, groups: Any, mask: Any) -> Any:
        self.calls["moments"] += 1
        found = []
        for v, keep in parts(groups, x, mask):
            keep = np.ones_like(v) if keep is None else keep
            n = int(keep[:, 0].sum())
            mean = (v * keep).sum(0) / n
            found.append((n, mean, (keep * (v - mean) ** 2).sum(0)))
        counts, means, m2 = (np.asarray(column) for column in zip(*found))
        return bnspec.Moments(counts, means, np.zeros_like(means), m2)

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Any) -> Any:
        self.calls["normalize"] += 1
        rows = [(v - centre[j]) * scale[j] + shift[j] for j, (v,) in enumerate(parts(groups, x))]
        return whole(rows, groups, x)

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Any, mask: Any) -> tuple[Any, ...]:
        self.calls["grad_sums"] += 1
        first, second = [], []
        for j, (g, v, keep) in enumerate(parts(groups, dy, x, mask)):
            g = g if keep is None else g * keep
            first.append(g.sum(0))
            second.append((g * (v - centre[j])).sum(0))
        return np.asarray(first), np.asarray(second)

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Any, mask: Any) -> Any:
        self.calls["grad_input"] += 1
        rows = []
        for j, (g, v, keep) in enumerate(parts(groups, dy, x, mask)):
            rows.append(a[j] * g + (1 if keep is None else keep) * (b[j] * (v - centre[j]) + c[j]))
        return whole(rows, groups, x)


def only(name: str) -> Any:
    """A toy that has one of the primitives."""
    toy = type("Some", (bnspec.Kernels,), {name: vars(Toy)[name]})()
    toy.calls = Counter()
    return toy


@contextmanager
def toy_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve NumPy by the toy while the specification's own primitives refuse to work."""

    def forbidden(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the specification's primitive was called past the seam")

    toy = Toy()
    with monkeypatch.context() as patch:
        for name in PRIMITIVES:
            patch.setattr(bnspec.Kernels, name, forbidden)
        with bnspec.use_kernels("numpy", toy):
            yield toy


RNG = np.random.default_rng(2)
X, DY, XDOT = (RNG.normal(size=(6, 3, 4)).astype(np.float32) for _ in range(3))
MASK = RNG.random((6, 1, 4)) > 0.3
CONFIGS = {
    "plain": {"axis": 1},
    "ghost": {"axis": -1, "virtual_batch_size": 2},
    "renorm": {"axis": 1, "renorm": bnspec.Renorm(rmax=1.5, dmax=0.5)},
}


PLAIN = bnspec.BatchNormConfig(epsilon=1e-3, decay=0.9, correction=0, axis=1)


def config_of(name: str) -> Any:
    return bnspec.BatchNormConfig(epsilon=1e-3, decay=0.9, correction=0, **CONFIGS[name])


def training_step(config: Any, mask: Any, comm: Any = None, rows: Any = slice(None)) -> list[Any]:
    """Everything that a step with batch statistics computes."""
    params, state = bnspec.init(config, channels=X.shape[config.axis], like=X)
    params = params._replace(gamma=np.linspace(0.5, 1.5, len(params.gamma), dtype=np.float32))
    mask = None if mask is None else mask[rows]
    y, stats, saved = bnspec.batch_norm(X[rows], params, config, state=state, mask=mask, comm=comm)
    gradients = bnspec.batch_norm_vjp(DY[rows], saved, comm=comm)
    tangents = bnspec.batch_norm_tangents(XDOT[rows], saved, params.gamma, params.beta, comm=comm)
    new = bnspec.update_running(state, stats, config)
    return [y, stats.count, stats.mean + stats.mean_low, stats.m2, *gradients, *tangents, *new]


def frozen_step(config: Any) -> list[Any]:
    params, state = bnspec.init(config, channels=3, like=X)
    y, saved = bnspec.batch_norm_inference(X, params, state, config)
    return [y, *bnspec.batch_norm_vjp(DY, saved), bnspec.batch_norm_jvp(XDOT, saved, params.gamma, params.beta)]


def close(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            assert a is b
        else:
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_needs_the_four_primitives_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = config_of(name)
    expected = training_step(config, None)
    with toy_alone(monkeypatch) as toy:
        close(training_step(config, None), expected)
    # The derivatives forward and backward read x twice each: once for the sums, once for the result.
    assert toy.calls == {"moments": 1, "normalize": 1, "grad_sums": 2, "grad_input": 2}


def test_a_masked_step_needs_the_four_primitives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = bnspec.BatchNormConfig(epsilon=1e-3, decay=0.9, correction=0, axis=1)
    expected = training_step(config, MASK)
    with toy_alone(monkeypatch) as toy:
        close(training_step(config, MASK), expected)
    assert set(toy.calls) == set(PRIMITIVES)
    assert toy.calls["moments"] == 1


def test_inference_and_its_derivatives_read_no_statistics_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("plain")
    expected = frozen_step(config)
    with toy_alone(monkeypatch) as toy:
        close(frozen_step(config), expected)
    assert toy.calls == {"normalize": 2, "grad_sums": 1, "grad_input": 1}


def test_joined_ranks_go_through_the_seam_too(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("plain")

    def run(comm: Any) -> Any:
        return training_step(config, None, comm, slice(0, 4) if comm.rank == 0 else slice(4, 6))

    expected = threads.run(2, run)
    with toy_alone(monkeypatch) as toy:
        results = threads.run(2, run)
    for ours, theirs in zip(results, expected):
        close(ours, theirs)
    assert toy.calls == {"moments": 2, "normalize": 2, "grad_sums": 4, "grad_input": 4}


def test_a_layer_goes_through_the_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = bnspec.BatchNorm(axis=1)
    with toy_alone(monkeypatch) as toy:
        layer(X)
        layer.backward(DY)
        layer.eval()(X)
    assert toy.calls == {"moments": 1, "normalize": 2, "grad_sums": 1, "grad_input": 1}


@pytest.mark.parametrize("replaced", PRIMITIVES)
def test_one_primitive_alone_can_be_replaced(replaced: Any) -> None:
    config = config_of("plain")
    expected = training_step(config, None)
    toy = only(replaced)
    before = bnspec.kernels_for(X)
    with bnspec.use_kernels("numpy", toy) as kernels:
        assert bnspec.kernels_for(X) is kernels
        close(training_step(config, None), expected)
    assert set(toy.calls) == {replaced}
    assert bnspec.kernels_for(X) is before


def test_what_was_replaced_comes_back_after_an_error_and_when_nested() -> None:
    before, outer, inner = bnspec.kernels_for(X), Toy(), Toy()
    with pytest.raises(ValueError, match="BN-SHAPE-1"), bnspec.use_kernels("numpy", outer):  # noqa: PT012
        with bnspec.use_kernels("numpy", inner):
            bnspec.BatchNorm(axis=1)(X)
        bnspec.BatchNorm(axis=1)(X)
        bnspec.BatchNorm(axis=1)(X[0, 0])
    assert bnspec.kernels_for(X) is before
    assert inner.calls == outer.calls == {"moments": 1, "normalize": 1}


def test_other_libraries_keep_their_primitives() -> None:
    torch = pytest.importorskip("torch")
    toy = Toy()
    with bnspec.use_kernels("numpy", toy):
        bnspec.BatchNorm(axis=1)(torch.asarray(X))
    assert toy.calls == {}


COMPOSED = ("forward", "pull_back", "infer", "update", "merge")


@pytest.mark.parametrize("replaced", COMPOSED)
def test_each_composed_operation_can_be_replaced_and_leave_calls_to_super(replaced: str) -> None:
    calls: Counter[str] = Counter()

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        calls[replaced] += 1
        return getattr(super(Counting, self), replaced)(*given, **more)

    Counting = type("Counting", (bnspec.Kernels,), {replaced: counted})
    config = config_of("ghost")

    def everything(comm: Any) -> list[Any]:
        return [*training_step(config, None, comm, slice(0, 4) if comm.rank == 0 else slice(2, 6)), *frozen_step(PLAIN)]

    with bnspec.use_kernels("numpy", bnspec.Kernels()):
        expected = threads.run(2, everything)
    with bnspec.use_kernels("numpy", Counting()):
        for ours, theirs in zip(threads.run(2, everything), expected):
            close(ours, theirs)
    assert set(calls) == {replaced}


def test_an_override_with_an_unknown_name_is_refused_where_it_is_defined() -> None:
    with pytest.raises(TypeError, match=r"kernels Misspelt with normalise; expected only .*normalize.* \[BN-ERR-5\]"):
        type("Misspelt", (bnspec.Kernels,), {"normalise": lambda self, *given: None})
    mixin = type("Mixin", (), {"grad_sum": lambda self, *given: None})
    with pytest.raises(TypeError, match="Mixed with grad_sum"):
        type("Mixed", (mixin, bnspec.Kernels), {})
    type("Helped", (bnspec.Kernels,), {"_own": 1})


@pytest.mark.parametrize("kernels", [object(), Toy, None])
def test_what_is_no_kernels_is_refused(kernels: Any) -> None:
    before = bnspec.kernels_for(X)
    with pytest.raises(TypeError, match=r"expected an instance of bnspec.Kernels \[BN-ERR-5\]"):
        with bnspec.use_kernels("numpy", kernels):
            pass
    assert bnspec.kernels_for(X) is before


def test_what_is_saved_says_by_name_whether_it_is_frozen() -> None:
    config = config_of("plain")
    params, state = bnspec.init(config, channels=3, like=X)
    trained, frozen = bnspec.batch_norm(X, params, config)[2], bnspec.batch_norm_inference(X, params, state, config)[1]
    assert (trained.frozen, frozen.frozen) == (False, True)
    for wrong in (trained._replace(divisor=None), frozen._replace(divisor=trained.divisor)):
        with pytest.raises((TypeError, ValueError), match="divisor"):
            bnspec.batch_norm_vjp(DY, wrong)
