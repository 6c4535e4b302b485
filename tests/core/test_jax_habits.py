"""What JAX's users do with pure functions: scan, remat, donation, vmap over models, checkify, export."""

from typing import Any

import numpy as np
import pytest

import bnspec

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy

CONFIG = bnspec.BatchNormConfig(axis=-1, epsilon=1e-3, decay=0.75, correction=0)
X = np.random.default_rng(0).standard_normal((5, 8, 3)).astype(np.float32) * 2 + 1


def started() -> tuple[Any, Any, Any]:
    x = jnp.asarray(X)
    return x, *bnspec.init(CONFIG, channels=3, like=x)


def step(params: Any, state: Any, x: Any) -> Any:
    return bnspec.apply(x, params, state, CONFIG, train=True)


def close(found: Any, wanted: Any, places: float = 2e-6) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=places, atol=places)


def test_the_state_is_a_carry_of_scan() -> None:
    x, params, state = started()
    last, ys = jax.jit(lambda: jax.lax.scan(lambda s, x: step(params, s, x)[::-1], state, x))()
    for i in range(len(x)):
        y, state = step(params, state, x[i])
        close(ys[i], y)
    close(last, state)


def test_what_is_computed_again_has_the_gradient_and_updates_once() -> None:
    x, params, state = started()

    def loss(f: Any) -> Any:
        def total(params: Any, x: Any) -> Any:
            y, new = f(params, state, x)
            return (y**3).sum(), new

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))(params, x[0])

    close(loss(jax.checkpoint(step)), loss(step), 1e-5)
    nothing = jax.checkpoint(step, policy=jax.checkpoint_policies.nothing_saveable)
    close(loss(nothing), loss(step), 1e-5)


def test_the_old_state_may_be_donated() -> None:
    x, params, state = started()
    want = step(params, state, x[0])
    given = jax.tree.map(jnp.copy, state)
    found = jax.jit(step, donate_argnums=1)(params, given, x[0])
    close(found, want)
    assert given.mean.is_deleted()
    assert not state.mean.is_deleted()


def test_a_model_for_each_lane() -> None:
    """Parameters and states of several models beside each other, with one batch or one each; and their gradients."""
    x, params, state = started()
    many = bnspec.Params(params.gamma * jnp.asarray([[1.0], [2.0], [-1.0]]), params.beta + jnp.arange(3.0)[:, None])
    states = jax.tree.map(lambda v: jnp.stack([v, v + 1, v + 2]), state)
    for batches, axis in ((x[0], None), (x[:3], 0)):
        ys, news = jax.jit(jax.vmap(step, (0, 0, axis)))(many, states, batches)
        dx = jax.vmap(jax.grad(lambda x, p, s: (step(p, s, x)[0] ** 3).sum()), (axis, 0, 0))(batches, many, states)
        for i in range(3):
            p, s = jax.tree.map(lambda v, i=i: v[i], (many, states))
            v = batches if axis is None else batches[i]
            y, new = step(p, s, v)
            close((ys[i], jax.tree.map(lambda v, i=i: v[i], news)), (y, new))
            close(dx[i], jax.grad(lambda x, p=p, s=s: (step(p, s, x)[0] ** 3).sum())(v), 2e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_checkify_finds_what_is_wrong_and_nothing_else(masked: bool) -> None:
    """No step of ours makes NaN, or divides by 0, where the result is finite; what is not finite in x is found."""
    from jax.experimental import checkify

    x, params, state = started()
    mask = jnp.arange(8)[:, None] < (0 if masked else 8)

    def whole(params: Any, state: Any, x: Any) -> Any:
        def loss(params: Any, x: Any) -> Any:
            y, new = bnspec.apply(x, params, state, CONFIG, train=True, mask=mask)
            return (y**3).sum(), new

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    checked = jax.jit(checkify.checkify(whole, errors=checkify.float_checks))
    error, _ = checked(params, state, x[0])
    assert error.get() is None
    error, _ = checked(params, state, x[0].at[1, 1].set(jnp.nan))
    assert "nan" in str(error.get())


def test_refusals_are_raised_while_tracing() -> None:
    """Under every transformation the text is that of the eager call."""
    from jax.experimental import checkify

    x, params, state = started()
    bad = state._replace(mean=jnp.zeros(4))
    text = r"batch_norm: state.mean has shape \(4,\) for 3 channels on axis 2?1?; .*\[BN-SHAPE-6\]"
    ways: list[Any] = [
        lambda f: f(x[0]),
        lambda f: jax.jit(f)(x[0]),
        lambda f: jax.grad(lambda x: f(x)[0].sum())(x[0]),
        lambda f: jax.vmap(f)(x),
        lambda f: jax.lax.scan(lambda c, x: (c, f(x)[0]), 0, x),
        lambda f: jax.checkpoint(f)(x[0]),
        lambda f: checkify.checkify(f)(x[0]),
        lambda f: jax.eval_shape(f, x[0]),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=text):
            way(lambda x: bnspec.apply(x, params, bad, CONFIG, train=True))
    for train in (True, False):
        with pytest.raises(TypeError, match=r"train is an array.*expected True or False"):
            jax.jit(lambda t: bnspec.apply(x[0], params, state, CONFIG, train=t))(train)


@pytest.mark.parametrize("train", [True, False])
def test_a_program_for_any_batch_is_exported(train: bool) -> None:
    import jax.export

    x, params, state = started()
    (n,) = jax.export.symbolic_shape("n")

    def whole(x: Any) -> Any:
        return bnspec.apply(x, params, state, CONFIG, train=train)

    exported = jax.export.export(jax.jit(whole))(jax.ShapeDtypeStruct((n, 3), jnp.float32))
    for size in (1, 2, 5, 8):
        close(exported.call(x[0, :size]), whole(x[0, :size]), 5e-6)
