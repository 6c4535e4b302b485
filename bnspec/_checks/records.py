"""Checks of the records that callers can make: `Params`, `RunningState`, `Moments`, `Groups` and `Saved`.

Records that bnspec returned pass. A record that a caller put together may have any shape, dtype or library in any
field, and compiled code would read beyond the end of an array. No element is read here.
"""

from typing import Any

from bnspec._checks.arrays import floating, integers, same_home, statistic, vector
from bnspec._checks.arrays import mask as check_mask
from bnspec._config import BatchNormConfig
from bnspec._dtypes import dtype_name
from bnspec._errors import refusal
from bnspec._static import tell_jax
from bnspec._types import Array, Groups, Moments, Params, RunningState, Saved, Static

__all__ = ["configuration", "groups", "is_plain_groups", "kind", "moments", "params", "saved", "state"]

_AS_RETURNED = "Pass what bnspec.batch_norm returned, as a whole."


def kind(what: str, value: Any, wanted: type, clause: str, name: str, do: str) -> None:
    """Refuse what is no record of the wanted type: another tuple or a dict has other fields in other places."""
    if not isinstance(value, wanted):
        raise refusal(
            TypeError,
            clause,
            got=f"{name}: {what} is a {type(value).__name__}",
            expected=f"a bnspec.{wanted.__name__}",
            do=do,
        )


def configuration(config: Any, name: Any) -> None:
    """Refuse what is no configuration, and a name that is no text."""
    if not isinstance(name, str):
        raise refusal(
            TypeError, "BN-ERR-1", got=f"name is a {type(name).__name__}", expected="a str", do="Pass the layer's name."
        )
    tell_jax()  # a configuration that was made before JAX was imported
    kind("config", config, BatchNormConfig, "BN-ERR-1", name, "Make it with bnspec.BatchNormConfig or a dialect.")


def params(x: Array, axis: int, given: Any, config: BatchNormConfig, name: str) -> None:
    """Check gamma and beta against x and the configuration."""
    kind("params", given, Params, "BN-NORM-2", name, "Write bnspec.Params(gamma, beta), with None for what is absent.")
    for label, value, wanted, switch in (
        ("gamma", given.gamma, config.scale, "scale"),
        ("beta", given.beta, config.center, "center"),
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
            vector(label, value, x, axis, name, "the parameters")


def state(x: Array, axis: int, given: Any, config: BatchNormConfig, name: str, of: str = "x") -> None:
    """Check every array of a running state against x, and that the fields the configuration reads are there."""
    kind("state", given, RunningState, "BN-RUN-2", name, "Make the state with bnspec.init and this configuration.")
    needed = {"mean", "var"} | ({"count"} if config.counts_updates else set())
    if config.renorm is not None:
        needed |= {"stddev"} if config.renorm.form == "paper" else {"stddev", "renorm_mean", "renorm_stddev"}
    for label, value in given._asdict().items():
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
            do = "Make the state with bnspec.init."
            integers("state.count", value, (x.shape[axis],), name, "BN-SHAPE-6", do, signed=False)
            same_home(of, x, "state.count", value, name)
        else:
            vector(f"state.{label}", value, x, axis, name, "the state", of)
            if dtype_name(value.dtype) in ("float16", "bfloat16"):
                raise refusal(
                    TypeError,
                    "BN-PREC-1",
                    got=f"{name}: state.{label} has dtype {dtype_name(value.dtype)}",
                    expected="float32 or float64",
                    do="Cast the state; averages kept in 16 bits stand still once an update is below a roundoff.",
                )


def moments(given: Any, name: str, what: str = "stats") -> None:
    """Check count, (G,) or (G, C), and mean, mean_low and m2 (G, C) of one dtype."""
    kind(what, given, Moments, "BN-MOM-1", name, "Pass what bnspec.batch_norm or bnspec.moments returned.")
    floating(f"{what}.m2", given.m2, name)
    shape = tuple(given.m2.shape)
    if len(shape) != 2:
        raise refusal(
            ValueError,
            "BN-MOM-3",
            got=f"{name}: {what}.m2 has shape {shape}",
            expected="shape (G, C), a row for each group",
            do=_AS_RETURNED,
        )
    counted = _count_shape(given.count, shape)
    integers(f"{what}.count", given.count, counted, name, "BN-MOM-1", _AS_RETURNED, signed=True)
    same_home(f"{what}.m2", given.m2, f"{what}.count", given.count, name)
    for label in ("mean", "mean_low", "m2"):
        _statistic(f"{what}.{label}", getattr(given, label), given.m2, f"{what}.m2", shape, name, "BN-MOM-2")


def groups(x: Array, given: Any, name: str) -> None:
    """Check that groups divide x as BN-GRP-2 says."""
    kind("groups", given, Groups, "BN-GRP-2", name, "Write bnspec.Groups(axis, number).")
    axis, number = given.axis, given.number
    if type(axis) is not int or not 0 <= axis < x.ndim:
        raise refusal(
            ValueError,
            "BN-SHAPE-2",
            got=f"{name}: groups.axis is {axis!r} for x of shape {tuple(x.shape)}",
            expected=f"an integer from 0 to {x.ndim - 1}",
            do="Pass the position of the channel axis, counted from 0.",
        )
    samples = x.shape[0]
    if type(number) is not int or number < 0 or (samples % number if number else samples) or (number != 1 and not axis):
        raise refusal(
            ValueError,
            "BN-GRP-3",
            got=f"{name}: groups.number is {number!r} for x of shape {tuple(x.shape)}, channels on axis {axis}",
            expected="a divisor of the number of samples on axis 0; 1 where the channels are there",
            do="Pass 1 for one group.",
        )


def is_plain_groups(given: Any) -> bool:
    """Return whether these are groups that can be hashed."""
    return type(given) is Groups and type(given.axis) is int and type(given.number) is int


def saved(given: Any) -> None:
    """Check what a forward pass kept: every array against x and the groups."""
    do = "Pass what the forward pass returned, as a whole."
    kind("saved", given, Saved, "BN-GRAD-1", "saved", do)
    kind("saved.static", given.static, Static, "BN-GRAD-1", "saved", do)
    configuration(given.static.config, given.static.name)
    name, x = given.static.name, given.x
    floating("saved.x", x, name)
    if x.ndim < 2:
        raise refusal(
            ValueError,
            "BN-SHAPE-1",
            got=f"{name}: saved.x has shape {tuple(x.shape)}",
            expected="rank >= 2",
            do=do,
        )
    groups(x, given.static.groups, name)
    axis, number = given.static.groups.axis, given.static.groups.number
    if given.mask is not None:
        check_mask(x, axis, given.mask, name, whole=True)
    for label in ("gamma", "beta"):
        if (value := getattr(given, label)) is not None:
            vector(f"saved.{label}", value, x, axis, name, "the parameters", "saved.x")
    shape = (number, x.shape[axis])
    for label in ("centre", "centre_low", "inverse_stddev", "r", "d"):
        if (value := getattr(given, label)) is not None or label not in ("r", "d"):
            _statistic(f"saved.{label}", value, x, "saved.x", shape, name, "BN-GRAD-1", given.centre)
    if type(given.static.frozen) is not bool or (given.static.frozen and given.divisor is not None):
        raise refusal(
            ValueError,
            "BN-INF-3",
            got=f"{name}: saved.static.frozen is {given.static.frozen!r} "
            f"{'without' if given.divisor is None else 'with'} a divisor",
            expected="True without a divisor for running statistics, False with one for those of a batch",
            do=do,
        )
    if not given.static.frozen:
        counted = _count_shape(given.divisor, shape)
        _statistic("saved.divisor", given.divisor, x, "saved.x", counted, name, "BN-GRAD-1", given.centre)


def _count_shape(given: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (G, C) for counts that have two axes, else (G,)."""
    return shape if getattr(given, "ndim", 1) == 2 else shape[:1]


def _statistic(
    what: str, v: Any, x: Array, of: str, shape: tuple[int, ...], name: str, clause: str, like: Array | None = None
) -> None:
    """Check a statistic beside x, and that it has the dtype of the others."""
    statistic(what, v, shape, name, clause, _AS_RETURNED)
    same_home(of, x, what, v, name)
    like = x if like is None else like
    assert v is not None
    assert like is not None
    if dtype_name(v.dtype) != dtype_name(like.dtype):
        raise refusal(
            TypeError,
            "BN-PREC-1",
            got=f"{name}: {what} has dtype {dtype_name(v.dtype)} beside {dtype_name(like.dtype)}",
            expected="one arithmetic dtype for all statistics",
            do=_AS_RETURNED,
        )
