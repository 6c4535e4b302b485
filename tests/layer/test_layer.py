"""The layers: arguments, variables, who updates when, backward, saving, and arrays of every library."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comparisons import bits

import bnspec
from bnspec._context import forget_frozen_warning
from bnspec_backends.ranks import threads

RNG = np.random.default_rng(4)
X, X2, DY = (RNG.normal(size=(6, 3)).astype(np.float32) for _ in range(3))
IMAGE = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.fixture
def frozen() -> Iterator[None]:
    """A process that has not warned yet; the warning is forgotten again afterwards."""
    forget_frozen_warning()
    yield
    forget_frozen_warning()


def step(layer: Any, x: Any = X, **context: Any) -> Any:
    """One training step with its updates run; the output."""
    with bnspec.training_context(**context) as inside:
        y = layer(x)
        inside.updates.run()
    return y


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "own", "value"),
    [
        ("momentum", "decay", 0.5),
        ("use_bias", "center", False),
        ("use_scale", "scale", False),
        ("beta_init", "beta_initializer", 2.0),
        ("gamma_init", "gamma_initializer", 3.0),
        ("use_local_stat", "training", True),
    ],
)
def test_an_alias_means_the_argument(alias: str, own: str, value: bool | float) -> None:
    one, other = bnspec.BatchNorm(**{alias: value}), bnspec.BatchNorm(**{own: value})
    default = bnspec.BatchNorm()
    for layer in (one, other, default):
        layer(X)
    assert bits(one.variables) == bits(other.variables)
    assert one.training == other.training
    assert own == "training" or bits(one.variables) != bits(default.variables)


@pytest.mark.parametrize(
    ("x", "options", "channels"),
    [
        (X, {}, 3),
        (X, {"data_format": "NHWC"}, 3),
        (IMAGE, {}, 5),
        (IMAGE, {"data_format": "channels_last"}, 5),
        (IMAGE, {"data_format": "NCHW"}, 3),
        (IMAGE, {"data_format": "channels_first"}, 3),
        (IMAGE, {"axis": 2}, 4),
        (IMAGE, {"axis": -2, "data_format": "NCHW"}, 4),
        (IMAGE[..., None], {}, 1),
        (IMAGE[0], {"data_format": "NCHW"}, 4),
    ],
)
def test_the_channel_axis(x: Any, options: dict[str, Any], channels: int) -> None:
    layer = bnspec.BatchNorm(**options)
    y = layer(x)
    assert (y.shape, layer.state.mean.shape) == (x.shape, (channels,))


def test_variables_are_made_at_the_first_call() -> None:
    layer = bnspec.BatchNorm(averaging="cumulative")
    assert (layer.variables, layer.params, layer.state) == ({}, None, None)
    layer(X.astype(np.float16))
    found = {name: (v.shape, v.dtype.name) for name, v in layer.variables.items()}
    assert found == dict.fromkeys(("beta", "gamma", "mean/EMA", "variance/EMA"), ((3,), "float32")) | {
        "count": ((3,), "int64")
    }
    assert list(bnspec.BatchNorm(center=False, scale=False).variables) == []
    bare = bnspec.BatchNorm(center=False, scale=False)
    bare(X.astype(np.float64))
    assert {name: v.dtype.name for name, v in bare.variables.items()} == dict.fromkeys(
        ("mean/EMA", "variance/EMA"), "float64"
    )


@pytest.mark.parametrize(
    ("initializer", "expected"),
    [
        (None, [1, 1, 1]),
        (2, [2, 2, 2]),
        (np.asarray([1.0, 2.0, 3.0]), [1, 2, 3]),
        ([1.0, 2.0, 3.0], [1, 2, 3]),
        (lambda shape: np.full(shape, 4.0), [4, 4, 4]),
        (lambda shape: 5.0, [5, 5, 5]),
        (lambda shape: None, [1, 1, 1]),
    ],
)
def test_an_initializer(initializer: Any, expected: list[Any]) -> None:
    layer = bnspec.BatchNorm(gamma_initializer=initializer)
    layer(X)
    assert layer.params.gamma.tolist() == expected
    assert layer.params.gamma.dtype == np.float32
    if isinstance(initializer, np.ndarray):
        initializer[0] = 9.0
        assert layer.params.gamma.tolist() == expected  # a copy


# --- training or not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("context", [None, True, False])
@pytest.mark.parametrize("argument", [None, True, False])
@pytest.mark.filterwarnings("ignore::bnspec.FrozenStatisticsWarning")
def test_the_argument_precedes_the_context_and_that_the_switch(
    argument: bool | None, context: bool | None, switch: bool
) -> None:
    layer = bnspec.BatchNorm(training=argument).train(switch)
    training = next(v for v in (argument, context, switch) if v is not None)
    if context is None:
        y = layer(X)
    else:
        with bnspec.training_context(context):
            y = layer(X)
    batch = bnspec.BatchNorm()(X)
    assert np.array_equal(y, batch) == training


def test_the_switch_returns_the_layer_and_the_innermost_context_counts() -> None:
    layer = bnspec.BatchNorm()
    assert layer.eval() is layer is layer.train()
    with bnspec.training_context(), bnspec.training_context(is_training=False) as inner:
        assert bnspec.current_context() is inner
        y = layer(X)
    assert not np.array_equal(y, bnspec.BatchNorm()(X))
    assert bnspec.current_context() is None


def test_a_frozen_layer_warns_once_per_process_from_the_main_tower(frozen: Any) -> None:
    layer, other = (bnspec.BatchNorm(training=False, name=name) for name in ("bn1", "bn2"))
    layer(X)  # outside a training context nothing is frozen
    step(layer, is_training=False)
    step(layer, tower=1)
    text = (
        "bn1 normalizes by its running statistics while training: they stay as they are, and gradients treat them as "
        "constants [BN-INF-5]. This is said once; other layers may do the same."
    )
    with pytest.warns(bnspec.FrozenStatisticsWarning) as said:
        step(layer)
    assert [str(warning.message) for warning in said] == [text]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(layer)
        step(other)


# --- who updates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "policy", "at_once", "later"),
    [
        ("bnspec", "default", True, True),
        ("tensorpack", "default", False, True),
        ("bnspec", "collection", False, True),
        ("bnspec", "internal", True, True),
        ("tensorpack", "internal", True, True),
        ("bnspec", "skip", False, False),
    ],
)
def test_the_update_policies(dialect: str, policy: str, at_once: bool, later: bool) -> None:
    layer = bnspec.BatchNorm(ema_update=policy, dialect=dialect, decay=0.0)
    with bnspec.training_context() as context:
        layer(X)
        assert layer.state.mean.any() == at_once
        assert len(context.updates) == (later and not at_once)
        context.updates.run()
        assert layer.state.mean.any() == later
        assert len(context.updates) == 0
    reference = bnspec.BatchNorm(training=True, ema_update=policy, dialect=dialect, decay=0.0)
    with bnspec.training_context(is_training=False) as prediction:
        reference(X)
        prediction.updates.run()
    assert reference.state.mean.any() == at_once  # a prediction context drops what is collected


def test_collected_updates_run_in_call_order_against_the_state_of_then() -> None:
    one, other = bnspec.BatchNorm(decay=0.5), bnspec.BatchNorm(decay=0.5, ema_update="collection")
    for x in (X, X2):
        one(x)
    with bnspec.training_context() as context:
        for x in (X, X2):
            other(x)
        context.updates.run()
    assert bits(one.variables) == bits(other.variables)
    with bnspec.training_context() as context:
        other(X)
        context.updates.clear()
        context.updates.run()
    assert bits(one.variables) == bits(other.variables)


@pytest.mark.parametrize("policy", ["internal", "collection"])
def test_two_towers_update_once_and_a_repeated_pass_never(policy: str) -> None:
    once, layer = bnspec.BatchNorm(), bnspec.BatchNorm(ema_update=policy)
    once(X)
    updates = bnspec.UpdateCollection()
    for tower, x in enumerate((X, X2)):
        with bnspec.training_context(tower=tower, updates=updates):
            layer(x)
            with bnspec.recompute():
                assert bits(layer(x)) == bits(bnspec.BatchNorm()(x))
    updates.run()
    assert bits(layer.variables) == bits(once.variables)


def test_ghost_and_sync_update_inside_under_the_tensorpack_dialect() -> None:
    def run(comm: Any) -> Any:
        sync, ghost = (
            bnspec.BatchNorm(dialect="tensorpack", ema_update="collection", **options)
            for options in ({"comm": comm}, {"virtual_batch_size": 3})
        )
        with bnspec.training_context() as context:
            for layer in (sync, ghost):
                layer(X)
                assert layer.state.mean.any()
                assert layer.eval()(X).shape == X.shape
            assert len(context.updates) == 0
        return bits(sync.variables)

    first, second = threads.run(2, run)
    assert first == second


def test_one_rank_alone_is_told_so() -> None:
    layer = bnspec.BatchNorm(sync_statistics="threads")
    with pytest.warns(UserWarning, match=r"batch_norm: sync_statistics='threads' with only one rank \[BN-SYNC-1\]"):
        y = threads.run(1, lambda comm: layer(X))[0]
    assert bits(y) == bits(bnspec.BatchNorm()(X))


# --- backward ---------------------------------------------------------------------------------------------------------


def test_backward_is_the_vjp_of_the_last_call_and_of_none_before() -> None:
    layer = bnspec.BatchNorm()
    layer(X)
    layer.forget()(X2)
    config = layer.config_for(X)
    expected = bnspec.batch_norm_vjp(DY, bnspec.batch_norm(X2, layer.params, config)[2])
    assert bits(layer.backward(DY)) == bits(expected.x)
    assert bits(layer.gradients) == bits(expected)
    layer.eval()(X)
    frozen = bnspec.batch_norm_vjp(DY, bnspec.batch_norm_inference(X, layer.params, layer.state, config)[1])
    assert bits(layer.backward(DY)) == bits(frozen.x)


def test_a_layer_that_is_not_trainable_withholds_the_gradients_of_its_parameters() -> None:
    one, other = bnspec.BatchNorm(), bnspec.BatchNorm(trainable=False)
    dx = [(layer(X), layer.backward(DY))[1] for layer in (one, other)]
    assert bits(dx[0]) == bits(dx[1]) == bits(other.gradients.x)
    assert (other.gradients.gamma, other.gradients.beta) == (None, None)
    assert one.gradients.gamma is not None


def test_the_gradients_of_renorm_do_not_depend_on_limits_set_afterwards() -> None:
    layer = bnspec.BatchRenorm(1.0, 0.0, epsilon=1e-3)
    plain = bnspec.BatchNorm(epsilon=1e-3)
    assert bits(layer(X)) == bits(plain(X))
    layer.rmax, layer.dmax = 3.0, 5.0
    assert (layer.rmax, layer.dmax, layer.renorm.decay) == (3.0, 5.0, bnspec.Renorm(rmax=1, dmax=0).decay)
    assert layer.renorm.decay == 0.99
    assert bits(layer.backward(DY)) == bits(plain.backward(DY))
    assert bits(layer(X)) != bits(plain(X))
    assert list(layer.variables)[2:] == [
        "moving_mean",
        "moving_variance",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
    ]
    paper = bnspec.BatchRenorm(1.5, 0.5, form="paper", center=False)
    paper(X)
    assert list(paper.variables) == ["gamma", "moving_mean", "moving_variance", "moving_stddev"]
