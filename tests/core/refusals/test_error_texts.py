"""The whole text of every refusal, and that nothing has changed after it [BN-ERR-1, BN-ERR-2]."""

from typing import Any

import numpy as np
import pytest
from refusals import refused

import bnspec

X = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
PARAMS, STATE = bnspec.init(CONFIG, channels=3, like=X)
DECAY = " It is the weight the old value keeps; a framework that multiplies the new value writes 1 - decay."
EPSILON = " [BN-NORM-1]. Usual values are 1e-5 and 1e-3."
DTYPES = "; expected one of bfloat16, float16, float32, float64 [BN-SHAPE-5]. Cast it to a floating dtype."


def trained(**options: Any) -> tuple[Any, ...]:
    """A layer that has seen a batch and waits for its backward pass, and a collection with an update in it."""
    layer = bnspec.BatchNorm(ema_update="collection", **options)
    with bnspec.training_context() as context:
        layer(X)
        context.updates.run()
        layer.forget()(X * 2)
    return layer, context.updates


def config(**fields: Any) -> Any:
    return bnspec.BatchNormConfig(**({"axis": 1, "epsilon": 1e-5, "decay": 0.9, "correction": 0} | fields))


@pytest.mark.parametrize(
    ("kind", "text", "x"),
    [
        (ValueError, "x has shape (3,); expected rank >= 2 [BN-SHAPE-1]. Reshape it to (N, C).", X[0]),
        (ValueError, "x has shape (); expected rank >= 2 [BN-SHAPE-1]. Reshape it to (N, C).", X[0, 0]),
        (TypeError, f"x has dtype int64{DTYPES}", np.ones((4, 3), np.int64)),
        (TypeError, f"x has dtype bool{DTYPES}", np.ones((4, 3), bool)),
        (TypeError, f"x has dtype complex64{DTYPES}", np.ones((4, 3), np.complex64)),
        (
            TypeError,
            "x is a list; expected an array of NumPy, CuPy, torch, JAX or another array-API library [BN-SHAPE-5]. "
            "Convert it first, for example with numpy.asarray.",
            [[1.0, 2.0, 3.0]],
        ),
        (
            ValueError,
            "gamma has shape (3,) for 4 channels on axis 1; expected shape (4,) [BN-SHAPE-6]. "
            "Check the channel axis, or make the parameters for 4 channels.",
            np.ones((6, 4), np.float32),
        ),
    ],
)
def test_an_x_that_is_refused(kind: Any, text: str, x: Any) -> None:
    layer, updates = trained(name="bn1")
    with refused(kind, f"bn1: {text}", layer, updates, x), bnspec.training_context(updates=updates):
        layer(x)
    with refused(kind, f"bn1: {text}", x, PARAMS):
        bnspec.batch_norm(x, PARAMS, CONFIG, name="bn1")
    with refused(kind, f"bn1: {text}", x, PARAMS, STATE):
        bnspec.batch_norm_inference(x, PARAMS, STATE, CONFIG, name="bn1")


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_out_of_range(axis: int) -> None:
    text = (
        f"batch_norm: axis={axis} for x of shape (6, 3); expected an axis from -2 to 1 [BN-SHAPE-2]. "
        "Pass the position of the channel axis."
    )
    layer = bnspec.BatchNorm(axis=axis)
    with refused(ValueError, text, layer, X):
        layer(X)
    with refused(ValueError, text, X, PARAMS):
        bnspec.batch_norm(X, PARAMS, config(axis=axis))


def test_a_state_of_another_length() -> None:
    layer, updates = trained()
    state = layer.state._replace(var=np.ones(1, np.float32))
    text = (
        "batch_norm: state of lengths {'mean': 3, 'var': 1}; expected one length, the number of channels [BN-SHAPE-6]. "
        "Take all of them from one layer."
    )
    with refused(ValueError, text, layer, updates, X):
        layer.state = state
    text = (
        "batch_norm: state.var has shape (1,) for 3 channels on axis 1; expected shape (3,) [BN-SHAPE-6]. "
        "Check the channel axis, or make the state for 3 channels."
    )
    with refused(ValueError, text, X):
        bnspec.batch_norm_inference(X, PARAMS, state, CONFIG)
    _, stats, _ = bnspec.batch_norm(X, PARAMS, CONFIG)
    with refused(ValueError, text, stats, layer):
        bnspec.update_running(state, stats, CONFIG)


def test_ghost_groups_that_do_not_fit() -> None:
    text = (
        "ghost: virtual_batch_size=4 and 6 samples on axis 0; expected a divisor of the number of samples [BN-GRP-3]. "
        "Change the batch size or the virtual batch size, or drop the remainder."
    )
    layer = bnspec.BatchNorm(virtual_batch_size=4, name="ghost")
    layer(X[:4])
    with refused(ValueError, text, layer, X):
        layer(X)
    text = (
        "ghost: virtual_batch_size=2 with the channels on axis 0; expected samples on axis 0 [BN-GRP-3]. "
        "Move the channel axis, or use virtual_batch_size=None."
    )
    layer = bnspec.BatchNorm(axis=0, virtual_batch_size=2, name="ghost")
    with refused(ValueError, text, layer, X):
        layer(X)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "field", "value", "text"),
    [
        (ValueError, "epsilon", -1e-5, f"epsilon is -1e-05; expected a finite number >= 0{EPSILON}"),
        (ValueError, "epsilon", NAN, f"epsilon is nan; expected a finite number >= 0{EPSILON}"),
        (ValueError, "epsilon", INF, f"epsilon is inf; expected a finite number >= 0{EPSILON}"),
        (
            TypeError,
            "epsilon",
            "1",
            f"epsilon is '1'; expected a finite number >= 0{EPSILON}",
        ),
        (ValueError, "decay", 1.5, f"decay is 1.5; expected a number in [0, 1] [BN-RUN-1].{DECAY}"),
        (ValueError, "decay", -0.1, f"decay is -0.1; expected a number in [0, 1] [BN-RUN-1].{DECAY}"),
        (ValueError, "decay", NAN, f"decay is nan; expected a number in [0, 1] [BN-RUN-1].{DECAY}"),
        (
            ValueError,
            "virtual_batch_size",
            0,
            "virtual_batch_size is 0; expected an integer >= 1 [BN-GRP-3]. Pass None for one group.",
        ),
        (
            TypeError,
            "axis",
            1.0,
            "axis is 1.0; expected an integer [BN-SHAPE-2]. Pass the position of the channel axis, such as 1 or -1.",
        ),
    ],
)
def test_a_number_out_of_range(kind: Any, field: str, value: Any, text: str) -> None:
    with refused(kind, text):
        config(**{field: value})
    with refused(kind, text):
        bnspec.BatchNorm(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("rmax", 0.5, "rmax is 0.5; expected a finite number >= 1 [BN-RENORM-9]. Use rmax=1 for no correction."),
        ("rmax", INF, "rmax is inf; expected a finite number >= 1 [BN-RENORM-9]. Use rmax=1 for no correction."),
        ("dmax", -1, "dmax is -1; expected a finite number >= 0 [BN-RENORM-9]. Use dmax=0 for no correction."),
        ("dmax", NAN, "dmax is nan; expected a finite number >= 0 [BN-RENORM-9]. Use dmax=0 for no correction."),
    ],
)
def test_limits_of_renorm(field: str, value: Any, text: str) -> None:
    with refused(ValueError, text):
        bnspec.BatchRenorm(**({"rmax": 2.0, "dmax": 1.0} | {field: value}))
    layer = bnspec.BatchRenorm(2.0, 1.0)
    layer(X)
    with refused(ValueError, text, layer, X):
        setattr(layer, field, value)


@pytest.mark.parametrize(
    ("kind", "text", "mask"),
    [
        (
            ValueError,
            "a mask of shape (5,) for x of shape (6, 3), channels on axis 1; expected a shape that broadcasts to "
            "(6, 3), or without the channel axis to (6,), and has as many axes [BN-MASK-7]. Give it x's rank, with "
            "extent 1 on the channel axis if one count is to serve all channels.",
            np.ones(5, bool),
        ),
        (
            ValueError,
            "a mask of shape (6, 2) for x of shape (6, 3), channels on axis 1; expected a shape that broadcasts to "
            "(6, 3), or without the channel axis to (6,), and has as many axes [BN-MASK-7]. Give it x's rank, with "
            "extent 1 on the channel axis if one count is to serve all channels.",
            np.ones((6, 2), bool),
        ),
        (
            TypeError,
            "a mask of dtype float32; expected an array of booleans [BN-MASK-7]. "
            "Make it by a comparison; True marks the elements that count.",
            np.ones((6, 1), np.float32),
        ),
        (
            TypeError,
            "a mask of type list; expected an array of booleans [BN-MASK-7]. "
            "Make it by a comparison; True marks the elements that count.",
            [[True]],
        ),
    ],
)
def test_a_mask_that_does_not_fit(kind: Any, text: str, mask: Any) -> None:
    layer, updates = trained()
    with refused(kind, f"batch_norm: {text}", layer, updates, X, mask), bnspec.training_context(updates=updates):
        layer(X, mask=mask)


@pytest.mark.parametrize(("other", "backend"), [("torch", "torch"), ("array_api_strict", "strict")])
def test_arrays_of_two_libraries(other: str, backend: str) -> None:
    pytest.importorskip(other)
    foreign = bnspec.get_backend(backend).asarray
    layer, updates = trained()
    text = (
        "batch_norm: {} is a {} array and {} a {} array; expected one library in one call [BN-ERR-3]. Convert {} to {}."
    )
    x = foreign(X)
    with (
        refused(TypeError, text.format("x", other, "gamma", "numpy", "gamma", other), layer, updates, x),
        bnspec.training_context(updates=updates),
    ):
        layer(x)
    with refused(TypeError, text.format("x", "numpy", "dy", other, "dy", "numpy"), layer, updates, x):
        layer.backward(x)
    mask = foreign(np.ones((6, 1), bool))
    with (
        refused(TypeError, text.format("x", "numpy", "mask", other, "mask", "numpy"), layer, updates, mask),
        bnspec.training_context(updates=updates),
    ):
        layer(X, mask=mask)
    _, stats, _ = bnspec.batch_norm(X, PARAMS, CONFIG)
    state = bnspec.RunningState(*map(foreign, STATE[:2]))
    wanted = text.format("stats.m2", "numpy", "state.mean", other, "state.mean", "numpy")
    with refused(TypeError, wanted, stats, state):
        bnspec.update_running(state, stats, CONFIG)


def test_arrays_on_two_devices() -> None:
    xp = pytest.importorskip("array_api_strict")
    here, there = xp.Device("CPU_DEVICE"), xp.Device("device1")
    x = xp.asarray(X, device=here)
    params = bnspec.Params(xp.ones(3, dtype=xp.float32, device=there), xp.zeros(3, dtype=xp.float32, device=here))
    text = "batch_norm: x is on {0} and {2} on {1}; expected one device in one call [BN-ERR-3]. Move {2} to {0}."
    with refused(ValueError, text.format(here, there, "gamma"), x):
        bnspec.batch_norm(x, params, CONFIG)
    layer = bnspec.BatchNorm()
    layer(x)
    with refused(ValueError, text.format(here, there, "dy"), x):
        layer.backward(xp.asarray(X, device=there))
    assert layer.backward(x).shape == x.shape  # the refused pass used nothing up


def test_one_value_and_correction_1() -> None:
    text = (
        "batch_norm: a batch with 1 value per channel (3 channels); expected more than 1 for correction=1 [BN-RUN-4]. "
        'Use a larger batch, correction=0, or single_value="keep" or "floor".'
    )
    layer = bnspec.BatchNorm(correction=1)
    layer(X)
    with refused(ValueError, text, layer, X):
        layer(X[:1])
    later, updates = trained(correction=1)
    with bnspec.training_context(updates=updates):
        updates.clear()
        later(X[:1])
    with refused(ValueError, text, later, updates):
        updates.run()


def test_backward_without_a_forward_pass() -> None:
    text = (
        "batch_norm: backward without a forward pass of its own; expected one backward after each call [BN-ERR-4]. "
        "Call the layer first; a call serves one backward."
    )
    layer = bnspec.BatchNorm()
    with refused(RuntimeError, text, layer, X):
        layer.backward(X)
    layer, updates = trained()
    layer.backward(X)
    with refused(RuntimeError, text, layer, updates, X):
        layer.backward(X)
