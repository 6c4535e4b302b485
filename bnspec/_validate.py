"""The checks at the door: every array that enters an operation, before anything is computed.

Each refusal names the clause it enforces; nothing here changes a value, and everything that can be
checked without reading the arrays' elements is checked here.
"""

from typing import Any

from array_api_compat import device, is_jax_array

from bnspec._config import BatchNormConfig
from bnspec._errors import refusal
from bnspec._looks import look_of, once
from bnspec._precision import FLOATING, dtype_name, is_array, library
from bnspec._types import Array, Groups, Moments, Params, RunningState, Saved
from bnspec._values import moments_values, state_values

__all__ = [
    "channel_axis",
    "derivative",
    "floating",
    "forward",
    "inference",
    "moments_values",
    "running",
    "same_home",
    "state_values",
]


def forward(
    x: Array, params: Params, config: BatchNormConfig, state: RunningState | None, mask: Array | None, name: str
) -> Groups:
    """Check what `batch_norm` takes and return the groups of x."""
    look = None if state is not None or mask is not None else look_of(x, *params)
    found: Groups = once(("forward", config), look, _forward, x, params, config, state, mask, name)
    return found


def _forward(
    x: Array, params: Params, config: BatchNormConfig, state: RunningState | None, mask: Array | None, name: str
) -> Groups:
    axis = channel_axis(x, config, name)
    _vectors(x, axis, params, config, name)
    if config.renorm is not None and state is None:
        raise refusal(
            TypeError,
            "BN-RENORM-4",
            got=f"{name}: renorm without a state",
            expected="state=RunningState",
            do="Pass the running state; the corrections are measured against it.",
        )
    if state is not None:
        _state(x, axis, state, config, name)
    if mask is not None:
        _mask(x, axis, mask, name)
    virtual = config.virtual_batch_size
    if virtual is None:
        return Groups(axis, 1)
    if axis == 0:
        raise refusal(
            ValueError,
            "BN-GRP-3",
            got=f"{name}: virtual_batch_size={virtual} with the channels on axis 0",
            expected="samples on axis 0",
            do="Move the channel axis, or use virtual_batch_size=None.",
        )
    if x.shape[0] % virtual:
        raise refusal(
            ValueError,
            "BN-GRP-3",
            got=f"{name}: virtual_batch_size={virtual} and {x.shape[0]} samples on axis 0",
            expected="a divisor of the number of samples",
            do="Change the batch size or the virtual batch size, or drop the remainder.",
        )
    return Groups(axis, x.shape[0] // virtual)


def inference(x: Array, params: Params, state: RunningState, config: BatchNormConfig, name: str) -> Groups:
    """Check what `batch_norm_inference` takes; ghost groups do not exist there."""
    look = look_of(x, *params, *state)
    found: Groups = once(("inference", config), look, _inference, x, params, state, config, name)
    state_values(state, name, fields=("var", "count") if config.averaging == "debiased" else ("var",))
    return found


def _inference(x: Array, params: Params, state: RunningState, config: BatchNormConfig, name: str) -> Groups:
    axis = channel_axis(x, config, name)
    _vectors(x, axis, params, config, name)
    _state(x, axis, state, config, name)
    return Groups(axis, 1)


def running(state: RunningState, stats: Moments, config: BatchNormConfig, name: str) -> None:
    """Check a state against the statistics that are to update it."""
    once(("running", config), look_of(stats.m2, *state), _state, stats.m2, 1, state, config, name, "stats.m2")


def channel_axis(x: Array, config: BatchNormConfig, name: str) -> int:
    """Check x itself and return its channel axis, counted from 0."""
    floating("x", x, name)
    if x.ndim < 2:
        raise refusal(
            ValueError,
            "BN-SHAPE-1",
            got=f"{name}: x has shape {tuple(x.shape)}",
            expected="rank >= 2",
            do="Reshape it to (N, C).",
        )
    if not -x.ndim <= config.axis < x.ndim:
        raise refusal(
            ValueError,
            "BN-SHAPE-2",
            got=f"{name}: axis={config.axis} for x of shape {tuple(x.shape)}",
            expected=f"an axis from {-x.ndim} to {x.ndim - 1}",
            do="Pass the position of the channel axis.",
        )
    return config.axis % int(x.ndim)


def floating(what: str, x: Any, name: str) -> None:
    """Refuse what is no array of a floating dtype the specification covers."""
    if not is_array(x):
        raise refusal(
            TypeError,
            "BN-SHAPE-5",
            got=f"{name}: {what} is a {type(x).__name__}",
            expected="an array of NumPy, CuPy, torch, JAX or another array-API library",
            do="Convert it first, for example with numpy.asarray.",
        )
    if type(x).__module__.startswith("numpy.ma"):  # half of what follows would honour its mask
        raise refusal(
            TypeError,
            "BN-MASK-7",
            got=f"{name}: {what} is a numpy.ma masked array",
            expected="a plain array",
            do="Pass its data, and mask=~numpy.ma.getmaskarray(x) for the elements that count.",
        )
    if dtype_name(x.dtype) not in FLOATING:
        raise refusal(
            TypeError,
            "BN-SHAPE-5",
            got=f"{name}: {what} has dtype {dtype_name(x.dtype)}",
            expected="one of " + ", ".join(FLOATING),
            do="Cast it to a floating dtype.",
        )


def derivative(what: str, v: Array, saved: Saved, **more: Array | None) -> None:
    """Check a cotangent or tangent of y, and those of parameters or statistics, against the saved forward pass."""
    name = saved.static.name
    look = None if any(v is not None for v in more.values()) else look_of(v, saved.x)
    once(("derivative", what), look, _derivative, what, v, saved, name, more)


def _derivative(what: str, v: Any, saved: Saved, name: str, more: dict[str, Array | None]) -> None:
    floating(what, v, name)
    same_home("x", saved.x, what, v, name)
    if tuple(v.shape) != tuple(saved.x.shape):
        raise refusal(
            ValueError,
            "BN-GRAD-1",
            got=f"{name}: {what} has shape {tuple(v.shape)}",
            expected=f"x's shape {tuple(saved.x.shape)}",
            do="Pass the derivative that belongs to this forward pass.",
        )
    for label, value in more.items():
        if value is None:
            continue
        floating(label, value, name)
        same_home("x", saved.x, label, value, name)
        statistic = label in ("dmean", "dvar")
        if statistic and saved.divisor is None:
            raise refusal(
                ValueError,
                "BN-GRAD-6",
                got=f"{name}: {label} for running statistics",
                expected=f"no {label}",
                do="Frozen statistics are constants; nothing flows into them.",
            )
        parameter = {"gamma_dot": saved.gamma, "beta_dot": saved.beta}.get(label)
        if not statistic and parameter is None:
            raise refusal(
                ValueError,
                "BN-NORM-2",
                got=f"{name}: {label} for a parameter that does not exist",
                expected=f"no {label}",
                do="The configuration has center or scale off.",
            )
        shape = tuple(saved.centre.shape) if statistic else (saved.centre.shape[1],)
        if tuple(value.shape) != shape:
            raise refusal(
                ValueError,
                "BN-GRAD-6" if statistic else "BN-GRAD-4",
                got=f"{name}: {label} has shape {tuple(value.shape)}",
                expected=f"shape {shape}",
                do="Statistics have one row per group, parameters none.",
            )


def same_home(what: str, x: Array, other: str, v: Array, name: str) -> None:
    """Refuse arrays of two libraries, or of one library on two devices [BN-ERR-3]."""
    if library(x) != library(v):
        raise refusal(
            TypeError,
            "BN-ERR-3",
            got=f"{name}: {what} is a {library(x)} array and {other} a {library(v)} array",
            expected="one library in one call",
            do=f"Convert {other} to {library(x)}.",
        )
    if is_jax_array(x):  # a traced array has no device yet, and JAX itself refuses to mix
        return
    if device(x) != device(v):
        raise refusal(
            ValueError,
            "BN-ERR-3",
            got=f"{name}: {what} is on {device(x)} and {other} on {device(v)}",
            expected="one device in one call",
            do=f"Move {other} to {device(x)}.",
        )


def _vectors(x: Array, axis: int, params: Params, config: BatchNormConfig, name: str) -> None:
    for label, value, wanted, switch in (
        ("gamma", params.gamma, config.scale, "scale"),
        ("beta", params.beta, config.center, "center"),
    ):
        if (value is not None) != wanted:
            raise refusal(
                ValueError,
                "BN-NORM-2",
                got=f"{name}: {label} is {'absent' if value is None else 'given'} and {switch}={wanted}",
                expected=f"{label} exactly when {switch} is True",
                do=f"Set {switch} in the configuration, or pass what it asks for.",
            )
        if value is not None:
            _vector(label, value, x, axis, name, "the parameters")


def _state(x: Array, axis: int, state: RunningState, config: BatchNormConfig, name: str, of: str = "x") -> None:
    needed = {"mean", "var"} | ({"count"} if config.counts_updates else set())
    if config.renorm is not None:
        needed |= {"stddev"} if config.renorm.form == "paper" else {"stddev", "renorm_mean", "renorm_stddev"}
    for label, value in state._asdict().items():
        if value is None:
            if label in needed:
                raise refusal(
                    ValueError,
                    "BN-RUN-2",
                    got=f"{name}: the state has no {label}",
                    expected=f"the fields {sorted(needed)}",
                    do="Make the state with bnspec.init and this configuration.",
                )
        elif label == "count":
            same_home(of, x, "state.count", value, name)
            if "int" not in dtype_name(value.dtype) or tuple(value.shape) != (x.shape[axis],):
                raise refusal(
                    ValueError,
                    "BN-SHAPE-6",
                    got=f"{name}: state.count is {dtype_name(value.dtype)} of shape {tuple(value.shape)}",
                    expected=f"integers of shape ({x.shape[axis]},)",
                    do="Make the state with bnspec.init.",
                )
        else:
            _vector(f"state.{label}", value, x, axis, name, "the state", of)
            if dtype_name(value.dtype) in ("float16", "bfloat16"):
                raise refusal(
                    TypeError,
                    "BN-PREC-1",
                    got=f"{name}: state.{label} has dtype {dtype_name(value.dtype)}",
                    expected="float32 or float64",
                    do="Cast the state; averages kept in 16 bits stand still once an update is below a roundoff.",
                )


def _vector(label: str, value: Array, x: Array, axis: int, name: str, owner: str, of: str = "x") -> None:
    floating(label, value, name)
    same_home(of, x, label, value, name)
    if tuple(value.shape) != (x.shape[axis],):
        raise refusal(
            ValueError,
            "BN-SHAPE-6",
            got=f"{name}: {label} has shape {tuple(value.shape)} for {x.shape[axis]} channels on axis {axis}",
            expected=f"shape ({x.shape[axis]},)",
            do=f"Check the channel axis, or make {owner} for {x.shape[axis]} channels.",
        )


def _mask(x: Array, axis: int, mask: Any, name: str) -> None:
    fits = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    if not is_array(mask) or dtype_name(mask.dtype) != "bool":
        kind = f"dtype {dtype_name(mask.dtype)}" if is_array(mask) else f"type {type(mask).__name__}"
        raise refusal(
            TypeError,
            "BN-MASK-7",
            got=f"{name}: a mask of {kind}",
            expected="an array of booleans",
            do="Make it by a comparison; True marks the elements that count.",
        )
    same_home("x", x, "mask", mask, name)
    if mask.ndim != x.ndim or any(m not in (1, n) for m, n in zip(mask.shape, fits, strict=True)):
        raise refusal(
            ValueError,
            "BN-MASK-7",
            got=f"{name}: a mask of shape {tuple(mask.shape)} for x of shape {tuple(x.shape)}",
            expected=f"a shape that broadcasts to {fits}",
            do="Give it x's rank, with size 1 on the channel axis.",
        )
