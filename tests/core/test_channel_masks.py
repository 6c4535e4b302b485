"""Masks with the channels' extent, masks without the channel axis, and lengths of sequences."""

import gc
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec_backends.ranks import threads

SHAPE, AXIS = (6, 3, 4), 1
RNG = np.random.default_rng(11)
X, DY = RNG.standard_normal((2, *SHAPE)).astype("float32")
MASK = RNG.random(SHAPE) < 0.5
MASK[:, 1] = False  # a channel that holds nothing
MASK[0, 2], MASK[1:, 2] = False, True


def config(**fields: Any) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(**({"axis": AXIS, "epsilon": 1e-3, "decay": 0.75, "correction": 0} | fields))


def results(x: Any, dy: Any, mask: Any, own: bnspec.BatchNormConfig, put: Any) -> dict[str, Any]:
    """Everything that a training step computes, as float64 NumPy arrays with the channels first."""
    x = put(x)
    params, state = bnspec.init(own, channels=x.shape[AXIS], like=x)
    y, stats, saved = bnspec.batch_norm(x, params, own, mask=put(mask))
    grads = bnspec.batch_norm_vjp(put(dy), saved)
    new = bnspec.update_running(state, stats, own)
    found = {"y": y, "dx": grads.x, "mean": stats.mean, "var": stats.var, "dgamma": grads.gamma, "dbeta": grads.beta}
    found |= {f"state.{k}": v for k, v in new._asdict().items() if v is not None}
    return {k: np.moveaxis(np.atleast_2d(np.asarray(v, np.float64)), AXIS, 0) for k, v in found.items()}


@pytest.mark.parametrize("name", ["numpy", "strict", "torch", "jax"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"averaging": "pooled"}, {"averaging": "cumulative"}, {"virtual_batch_size": 2, "ghost_source": "merged"}],
    ids=["plain", "pooled", "cumulative", "ghost"],
)
def test_each_channel_is_a_batch_of_its_own(name: str, fields: dict[str, Any]) -> None:
    pytest.importorskip({"strict": "array_api_strict"}.get(name, name))
    put = bnspec.get_backend(name).asarray
    own = config(**fields)
    whole = results(X, DY, MASK, own, put)
    for c in range(SHAPE[AXIS]):
        part = (slice(None), slice(c, c + 1))
        alone = results(X[part], DY[part], MASK[part], own, put)
        for key, values in alone.items():
            np.testing.assert_allclose(whole[key][c : c + 1], values, rtol=2e-6, atol=2e-6, err_msg=f"{key} {c}")


def test_a_channel_that_holds_nothing_keeps_its_state_to_the_bit() -> None:
    own = config(averaging="cumulative")
    params, state = bnspec.init(own, channels=3, like=X)
    _, stats, _ = bnspec.batch_norm(X, params, own, mask=MASK)
    new = bnspec.update_running(state, stats, own)
    assert stats.count.tolist() == [MASK.sum(axis=(0, 2)).tolist()]
    assert new.count.tolist() == [1, 0, 1]
    assert (new.mean[1], new.var[1]) == (state.mean[1], state.var[1])


def test_equal_counts_of_all_channels_are_one_count_to_the_bit() -> None:
    own, shared = config(correction=1), np.broadcast_to(MASK[:, :1], SHAPE)
    params, state = bnspec.init(own, channels=3, like=X)
    _, one, _ = bnspec.batch_norm(X, params, own, mask=MASK[:, :1])
    _, each, _ = bnspec.batch_norm(X, params, own, mask=shared)
    assert (one.count.shape, each.count.shape) == ((1,), (1, 3))
    for a, b in zip(
        bnspec.update_running(state, one, own), bnspec.update_running(state, one._replace(count=each.count), own)
    ):
        assert (a is None and b is None) or a.tobytes() == b.tobytes()


def test_merging_counts_of_both_shapes() -> None:
    groups = bnspec.Groups(AXIS, 1)
    left, right = bnspec.moments(X[:2], groups), bnspec.moments(X[2:], groups, MASK[2:])
    joined, other = bnspec.merge(left, right), bnspec.merge(right, left)
    whole = bnspec.moments(X, groups, np.concatenate([np.ones_like(MASK[:2]), MASK[2:]]))
    assert joined.count.tolist() == other.count.tolist() == whole.count.tolist()
    np.testing.assert_allclose(joined.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(joined.m2, whole.m2, rtol=1e-14)
    np.testing.assert_array_equal(joined.m2[:, 1], left.m2[:, 1])


def test_ranks_with_and_without_such_a_mask() -> None:
    own = config(correction=1)
    masks = [MASK[:2], MASK[2:4, :1], None]
    params, state = bnspec.init(own, channels=3, like=X)

    def train(comm: bnspec.Communicator) -> Any:
        part = slice(2 * comm.rank, 2 * comm.rank + 2)
        y, stats, saved = bnspec.batch_norm(X[part], params, own, mask=masks[comm.rank], comm=comm)
        grads = bnspec.batch_norm_vjp(DY[part], saved, comm=comm)
        return y, grads.x, stats, bnspec.update_running(state, stats, own)

    found = threads.run(3, train)
    full = np.concatenate([np.broadcast_to(True if m is None else m, (2, 3, 4)) for m in masks])
    y, stats, saved = bnspec.batch_norm(X, params, own, mask=full)
    np.testing.assert_allclose(np.concatenate([f[0] for f in found]), y, rtol=1e-6, atol=1e-6)
    dx = bnspec.batch_norm_vjp(DY, saved).x
    np.testing.assert_allclose(np.concatenate([f[1] for f in found]), dx, rtol=1e-6, atol=1e-6)
    for _, _, joined, new in found:
        assert joined.count.tolist() == stats.count.tolist()
        np.testing.assert_allclose(new.var, bnspec.update_running(state, stats, own).var, rtol=1e-6)


@pytest.mark.parametrize("own", [True, False])
def test_the_shape_of_a_count_is_that_of_the_mask_also_of_nothing(own: bool) -> None:
    x = X[:0]
    mask = np.ones((0, 3 if own else 1, 4), bool)
    params, state = bnspec.init(config(), channels=3, like=x)
    y, stats, saved = bnspec.batch_norm(x, params, config(), mask=mask)
    assert stats.count.tolist() == ([[0, 0, 0]] if own else [0])
    assert y.shape == bnspec.batch_norm_vjp(x, saved).x.shape == x.shape
    assert bnspec.update_running(state, stats, config()).mean.tolist() == state.mean.tolist()


def test_a_saved_mask_has_the_rank_of_x() -> None:
    own = config()
    _, _, saved = bnspec.batch_norm(X, bnspec.init(own, channels=3, like=X)[0], own, mask=MASK[:, 0])
    assert saved.mask is not None
    assert saved.mask.shape == (6, 1, 4)
    with pytest.raises(ValueError, match="BN-MASK-7"):
        bnspec.batch_norm_vjp(DY, saved._replace(mask=MASK[:, 0]))
    with pytest.raises(ValueError, match="BN-GRAD-1"):
        bnspec.batch_norm_vjp(DY, saved._replace(divisor=np.ones((1, 2))))


def test_lengths_under_jit() -> None:
    jax = pytest.importorskip("jax")
    own = config(axis=2)
    x = jax.numpy.asarray(np.moveaxis(X, 1, 2))
    params, _ = bnspec.init(own, channels=3, like=x)
    forward = jax.jit(lambda x, lengths: bnspec.batch_norm(x, params, own, lengths=lengths)[:2])
    for lengths in ([4, 1, 0, 2, 3, 4], [0, 0, 0, 0, 0, 1]):
        y, stats = forward(x, jax.numpy.asarray(lengths))
        assert stats.count.tolist() == [sum(lengths)]
        want = bnspec.batch_norm(x, params, own, lengths=jax.numpy.asarray(lengths))[0]
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_lengths_above_the_extent_are_refused_where_they_can_be_read() -> None:
    own = config()
    params, _ = bnspec.init(own, channels=3, like=X)
    with pytest.raises(ValueError, match=r"a length of 5; expected at most 4.*\[BN-MASK-9\]"):
        bnspec.batch_norm(X, params, own, lengths=np.asarray([4, 4, 4, 4, 4, 5]))
    with pytest.raises(TypeError, match=r"a mask and lengths; expected one of them \[BN-MASK-9\]"):
        bnspec.batch_norm(X, params, own, lengths=np.full(6, 4), mask=MASK)


class TestLayer:
    def test_backward_of_a_step_with_lengths(self) -> None:
        layer, lengths = bnspec.BatchNorm(axis=1), np.asarray([4, 1, 0, 2, 3, 4])
        y = layer(X, lengths=lengths)
        mask = (np.arange(4) < lengths[:, None])[:, None, :]
        other = bnspec.BatchNorm(axis=1)
        np.testing.assert_array_equal(y, other(X, mask=mask))
        np.testing.assert_array_equal(layer.backward(DY), other.backward(DY))

    @pytest.mark.parametrize("form", ["lengths", "mask"])
    def test_what_the_caller_holds_is_enough(self, form: str) -> None:
        """Where torch wants no gradient the layer holds neither x nor what says which elements count."""
        torch = pytest.importorskip("torch")
        x, dy = torch.asarray(X), torch.asarray(DY)
        given = torch.asarray([4, 1, 0, 2, 3, 4]) if form == "lengths" else torch.asarray(MASK[:, 0])
        layer = bnspec.BatchNorm(axis=1)
        with torch.no_grad():
            layer(x, **{form: given})
            want = layer.backward(dy)
            layer(x, **{form: given})
            del given
            gc.collect()
            with pytest.raises(RuntimeError, match="BN-ERR-4"):
                layer.backward(dy)
        assert bool(torch.isfinite(want).all())
