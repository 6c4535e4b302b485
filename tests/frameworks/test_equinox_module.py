"""`bnspec.equinox.BatchNorm` beside equinox's own: numbers, leaves both ways, samples of an axis, options."""

import doctest
import io
from typing import Any

import numpy as np
import pytest

import bnspec

jax = pytest.importorskip("jax", reason="jax is not installed")
eqx = pytest.importorskip("equinox", reason="equinox is not installed")
jnp = jax.numpy

X = np.random.default_rng(0).standard_normal((12, 4, 5)).astype(np.float32) * 2 + 1


def made(*given: Any, ours: bool = True, **arguments: Any) -> Any:
    import bnspec.equinox

    if ours:
        return eqx.nn.make_with_state(bnspec.equinox.BatchNorm)(4, *given, **arguments)
    return eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, *given, mode="batch", **arguments)


def over_samples(layer: Any, *axes: int | None) -> Any:
    return eqx.filter_jit(jax.vmap(layer, axis_name="batch", in_axes=(0, None, *axes), out_axes=(0, None)))


def arrays(tree: Any) -> list[Any]:
    return [v for v in jax.tree.leaves(tree) if eqx.is_array(v)]


def close(found: Any, wanted: Any, places: float = 5e-6) -> None:
    found, wanted = arrays(found), arrays(wanted)
    assert [(v.shape, v.dtype) for v in found] == [(v.shape, v.dtype) for v in wanted]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=places, atol=places)


@pytest.mark.parametrize("arguments", [{}, {"channelwise_affine": False, "eps": 1e-2}])
def test_numbers_and_leaves_are_equinoxs(arguments: dict[str, Any]) -> None:
    """Over so many steps that the 1 at which equinox's variance starts is forgotten."""
    layers = [made("batch", ours=ours, momentum=0.5, **arguments) for ours in (True, False)]
    assert [v.dtype for v in arrays(layers[0])] == [v.dtype for v in arrays(layers[1])]
    found = []
    for layer, state in layers:
        call = over_samples(layer)
        for step in range(25):
            y, state = call(jnp.asarray(X) + step % 3, state)
        dx = jax.grad(lambda x, layer=layer, state=state: (over_samples(layer)(x, state)[0] ** 3).sum())(jnp.asarray(X))
        predicted, same = over_samples(eqx.nn.inference_mode(layer))(jnp.asarray(X), state)
        close(same, state, 0)
        found.append((y, dx / 10, state, predicted))
    close(*found)


def test_a_file_of_one_is_one_of_the_other() -> None:
    x = jnp.asarray(X)
    ours, theirs = (made("batch", ours=each) for each in (True, False))
    for first, second in ((ours, theirs), (theirs, ours)):
        layer, state = first
        trained = (eqx.tree_at(lambda made: made.weight, layer, jnp.arange(4.0)), over_samples(layer)(x, state)[1])
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, trained)
        file.seek(0)
        read = eqx.tree_deserialise_leaves(file, second)
        close(read, trained, 0)
        close(over_samples(read[0])(x, read[1])[0], over_samples(trained[0])(x, trained[1])[0])


def test_inference_divides_a_variance_that_starts_at_one() -> None:
    """After one batch the running variance is that batch's, where equinox adds 99."""
    layer, state = made("batch")
    _, state = over_samples(layer)(jnp.asarray(X), state)
    y, _ = over_samples(eqx.nn.inference_mode(layer))(jnp.asarray(X), state)
    want = (X - X.mean((0, 2), keepdims=True)) / np.sqrt(X.var((0, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)  # 1 is subtracted from 0.99 + 0.01*var
    close(over_samples(layer)(jnp.asarray(X), made("batch")[1])[0], jnp.asarray(want))


def test_masks_of_samples() -> None:
    """Each sample has its own length, one has none; a batch without elements moves nothing."""
    mask = (np.arange(5)[None, None] < np.resize([5, 3, 1, 0], 12)[:, None, None]).astype(np.float32)
    layer, state = made("batch")

    def call(x: Any, state: Any, mask: Any) -> Any:
        return layer(x, state, mask=mask)

    y, new = over_samples(call, 0)(jnp.asarray(X), state, jnp.asarray(mask))
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.99, correction=0)
    params, _ = bnspec.init(config, channels=4, like=y)
    want, stats, _ = bnspec.batch_norm(jnp.asarray(X), params, config, mask=jnp.asarray(mask, bool))
    close(y, want)
    close(new.get(layer.batch_state_index)[0], 0.01 * stats.mean[0])
    _, same = over_samples(call, 0)(jnp.asarray(X), new, jnp.zeros_like(jnp.asarray(mask)))
    close(same, new, 0)
    with pytest.raises(ValueError, match=r"with the channels' extent.*BN-MASK-8"):
        over_samples(call, 0)(jnp.asarray(X), state, jnp.ones((12, 4, 5)))


def test_a_batch_with_ghost_groups_and_renorm() -> None:
    renorm = bnspec.Renorm(rmax=1.5, dmax=0.5)
    layer, state = made(None, averaging="exponential", virtual_batch_size=3, ghost_source="merged", renorm=renorm)
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.99, correction=0, virtual_batch_size=3,
                                    ghost_source="merged", renorm=renorm)  # fmt: skip
    traces = []

    @eqx.filter_jit
    def call(x: Any, state: Any, schedule: Any) -> Any:
        traces.append(schedule)
        return layer(x, state, schedule=schedule)

    params, want = bnspec.init(config, channels=4, like=jnp.asarray(X))
    for rmax in (1.0, 1.25):
        schedule = bnspec.Schedule(rmax=jnp.asarray(rmax), decay=jnp.asarray(0.5))
        y, state = call(jnp.asarray(X), state, schedule)
        wanted, want = bnspec.apply(jnp.asarray(X), params, want, config, train=True, schedule=schedule)
        close(y, wanted)
    close(state.get(layer.batch_state_index), (want.mean, want.var))
    close(state.get(layer.renorm_index), want[3:])
    assert len(traces) == 1


def test_the_axes_of_a_mesh_join_those_of_samples() -> None:
    """One axis of ranks and one of samples: the whole batch, in the order of both."""
    layer, state = made(("ranks", "batch"))
    inner = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    both = jax.jit(jax.vmap(inner, axis_name="ranks", in_axes=(0, None), out_axes=(0, None)))
    y, _ = both(jnp.asarray(X).reshape(3, 4, 4, 5), state)
    alone, alone_state = made("batch")
    close(y.reshape(X.shape), over_samples(alone)(jnp.asarray(X), alone_state)[0])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mode": "ema"}, r"mode='ema'; expected mode=\"batch\" \[BN-INF-1\]"),
        ({"momentum": 2.0}, r"decay is 2.0.*BN-RUN-1"),
        ({"averaging": "pooled"}, r"averaging='pooled'; expected averaging \"debiased\" or \"exponential\""),
        ({"nonfinite": "skip"}, r"nonfinite=\"skip\" with averaging=\"debiased\".*BN-RUN-10"),
        ({"virtual_batch_size": 2}, r"virtual_batch_size with an axis_name.*BN-GRP-3"),
        ({"renorm": bnspec.Renorm(rmax=2, dmax=1)}, r"renorm with averaging='debiased'.*BN-RENORM-5"),
        ({"virtual_batch": 2}, r"BatchNorm with virtual_batch; expected equinox's arguments.*BN-ERR-5"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    import bnspec.equinox

    with pytest.raises((TypeError, ValueError), match=text):
        bnspec.equinox.BatchNorm(4, "batch", **arguments)


def test_outside_of_its_axis_a_call_is_refused() -> None:
    layer, state = made("batch")
    with pytest.raises(
        TypeError, match=r"BatchNorm: statistics to be joined over the axis 'batch', outside.*BN-SYNC-9"
    ):
        layer(jnp.asarray(X[0]), state)
    with pytest.raises(TypeError, match=r"inference is 1; expected True or False"):
        layer(jnp.asarray(X[0]), state, inference=1)


def test_examples() -> None:
    import bnspec_backends.modules.equinox as module

    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
