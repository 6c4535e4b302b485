"""The checks at the door: what each public function takes is checked here as a whole, before anything is computed.

Nothing here changes a value. Kinds, shapes, dtypes, libraries and devices are checked once for all calls that key the
same; the elements that BN-RUN-14 speaks of, in every call.
"""

from typing import Any

from bnspec._checks import arrays, records
from bnspec._checks.arrays import floating, same_home
from bnspec._checks.cache import cached, key_of
from bnspec._checks.elements import lengths_values, moments_values, state_values
from bnspec._config import BatchNormConfig
from bnspec._dtypes import dtype_name
from bnspec._errors import refusal
from bnspec._masks import sequence_axis
from bnspec._sharding import parts
from bnspec._types import Array, Groups, Moments, Params, RunningState, Saved, Static

__all__ = [
    "channel_axis",
    "communicator",
    "company",
    "derivative",
    "forward",
    "inference",
    "merge",
    "moments",
    "running",
    "statistics",
]


def forward(
    x: Array,
    params: Params,
    config: BatchNormConfig,
    state: RunningState | None,
    mask: Array | None,
    lengths: Array | None,
    comm: Any,
    name: str,
) -> Groups:
    """Check what `batch_norm` takes and return the groups of x."""
    key = None
    if _known(config, name) and type(params) is Params and (state is None or type(state) is RunningState):
        key = key_of(x, mask, lengths, *params, *(state or ()))
    found: Groups = cached(("forward", config), key, _forward, x, params, config, state, mask, lengths, name)
    if lengths is not None:
        lengths_values(lengths, int(x.shape[sequence_axis(x.ndim, found.axis)]), name)
    communicator(comm, name)
    if config.renorm is not None and state is not None:
        state_values(state, name, fields=("stddev", "renorm_stddev"))
    return found


def _forward(
    x: Array,
    params: Params,
    config: BatchNormConfig,
    state: RunningState | None,
    mask: Array | None,
    lengths: Array | None,
    name: str,
) -> Groups:
    records.configuration(config, name)
    axis = channel_axis(x, config, name)
    records.params(x, axis, params, config, name)
    if config.renorm is not None and state is None:
        raise refusal(
            TypeError,
            "BN-RENORM-4",
            got=f"{name}: renorm without a state",
            expected="state=RunningState",
            do="Pass the running state; the corrections are measured against it.",
        )
    if state is not None:
        records.state(x, axis, state, config, name)
    if mask is not None:
        arrays.mask(x, axis, mask, name)
    if lengths is not None:
        arrays.lengths(x, axis, lengths, mask, name)
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
    number, shards = x.shape[0] // virtual, parts(x, 0)
    if number % shards:
        raise refusal(
            ValueError,
            "BN-GRP-3",
            got=f"{name}: {number} groups of {virtual} samples, and axis 0 in {shards} parts by x's type",
            expected="a number of groups that the number of parts divides, so that each group is on one device",
            do="Use a smaller virtual_batch_size, or spread x otherwise with jax.sharding.reshard before.",
        )
    return Groups(axis, x.shape[0] // virtual)


def inference(
    x: Array, params: Params, state: RunningState, config: BatchNormConfig, name: str, *, values: bool = True
) -> Groups:
    """Check what `batch_norm_inference` takes; ghost groups do not exist there.

    Without ``values`` the caller looks at the elements of the state.
    """
    known = _known(config, name) and type(params) is Params and type(state) is RunningState
    key = key_of(x, *params, *state) if known else None
    found: Groups = cached(("inference", config), key, _inference, x, params, state, config, name)
    if values:
        state_values(state, name, fields=_read(config))
    return found


def _inference(x: Array, params: Params, state: RunningState, config: BatchNormConfig, name: str) -> Groups:
    records.configuration(config, name)
    axis = channel_axis(x, config, name)
    records.params(x, axis, params, config, name)
    records.state(x, axis, state, config, name)
    return Groups(axis, 1)


def company(x: Array, axis: int, mask: Array | None, lengths: Array | None, comm: Any, name: str) -> None:
    """Check what may come with x: a mask or lengths, and a communicator."""
    if mask is not None:
        arrays.mask(x, axis, mask, name)
    if lengths is not None:
        arrays.lengths(x, axis, lengths, mask, name)
        lengths_values(lengths, int(x.shape[sequence_axis(x.ndim, axis)]), name)
    communicator(comm, name)


def running(state: RunningState, stats: Moments, config: BatchNormConfig, name: str) -> None:
    """Check a state against the statistics that are to update it; whoever computes looks at the values."""
    known = _known(config, name) and type(stats) is Moments and type(state) is RunningState
    key = key_of(*stats, *state) if known else None
    cached(("running", config), key, _running, state, stats, config, name)


def _running(state: RunningState, stats: Moments, config: BatchNormConfig, name: str) -> None:
    records.configuration(config, name)
    records.moments(stats, name)
    records.state(stats.m2, 1, state, config, name, "stats.m2")


def statistics(state: RunningState, config: BatchNormConfig, name: str) -> None:
    """Check what `running_statistics` takes."""
    known = _known(config, name) and type(state) is RunningState
    cached(("statistics", config), key_of(*state) if known else None, _statistics, state, config, name)
    state_values(state, name, fields=_read(config))


def _statistics(state: RunningState, config: BatchNormConfig, name: str) -> None:
    records.configuration(config, name)
    records.kind("state", state, RunningState, "BN-RUN-2", name, "Make the state with bnspec.init.")
    floating("state.mean", state.mean, name)
    if state.mean.ndim != 1:
        raise refusal(
            ValueError,
            "BN-SHAPE-6",
            got=f"{name}: state.mean has shape {tuple(state.mean.shape)}",
            expected="shape (C,)",
            do="Make the state with bnspec.init.",
        )
    records.state(state.mean, 0, state, config, name, "state.mean")


def moments(x: Array, groups: Groups, mask: Array | None, name: str) -> None:
    """Check what the public `bnspec.moments` takes."""
    key = key_of(x, mask) if records.is_plain_groups(groups) else None
    cached(("moments", groups) if key else None, key, _moments, x, groups, mask, name)


def _moments(x: Array, groups: Groups, mask: Array | None, name: str) -> None:
    _ranked(x, name)
    records.groups(x, groups, name)
    if mask is not None:
        arrays.mask(x, groups.axis, mask, name)


def merge(a: Moments, b: Moments, name: str) -> None:
    """Check what the public `bnspec.merge` takes."""
    known = type(a) is Moments and type(b) is Moments
    cached("merge", key_of(*a, *b) if known else None, _merge, a, b, name)
    moments_values(a, name, "a")
    moments_values(b, name, "b")


def _merge(a: Moments, b: Moments, name: str) -> None:
    records.moments(a, name, "a")
    records.moments(b, name, "b")
    same_home("a", a.m2, "b", b.m2, name)
    kinds = [f"{dtype_name(v.m2.dtype)} of shape {tuple(v.m2.shape)}" for v in (a, b)]
    if kinds[0] != kinds[1]:
        raise refusal(
            ValueError,
            "BN-MOM-7",
            got=f"{name}: a.m2 is {kinds[0]}, b.m2 {kinds[1]}",
            expected="moments of the same groups and channels, in one dtype",
            do="Merge the parts of one batch, divided alike.",
        )


def derivative(what: str, v: Array, saved: Saved, comm: Any, **more: Array | None) -> None:
    """Check a cotangent or tangent of y, and those of parameters or statistics, against the saved forward pass."""
    static: Any = saved.static if type(saved) is Saved else None
    key = groups = None
    known = type(static) is Static and type(static.frozen) is bool and _known(static.config, static.name)
    if known and records.is_plain_groups(static.groups):
        groups = (static.groups, static.frozen)
        key = key_of(v, *saved[:-1], *more.values())
    cached(("derivative", what, groups), key, _derivative, what, v, saved, more)
    communicator(comm, saved.static.name)


def _derivative(what: str, v: Any, saved: Saved, more: dict[str, Array | None]) -> None:
    records.saved(saved)
    name = saved.static.name
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
        if statistic and saved.frozen:
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


def channel_axis(x: Array, config: BatchNormConfig, name: str) -> int:
    """Check x itself and return its channel axis, counted from 0."""
    _ranked(x, name)
    if not -x.ndim <= config.axis < x.ndim:
        raise refusal(
            ValueError,
            "BN-SHAPE-2",
            got=f"{name}: axis={config.axis} for x of shape {tuple(x.shape)}",
            expected=f"an axis from {-x.ndim} to {x.ndim - 1}",
            do="Pass the position of the channel axis.",
        )
    return config.axis % int(x.ndim)


def communicator(comm: Any, name: str) -> None:
    """Refuse what joins no ranks, such as the name of a communicator."""
    if comm is None:
        return
    if type(comm).__module__.startswith("torch."):  # a process group has no ranks to ask for, and no merge
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"{name}: comm is a {type(comm).__module__}.{type(comm).__name__}",
            expected="a bnspec.Communicator or None",
            do="Pass comm=bnspec_backends.ranks.TorchCommunicator(group).",
        )
    if not callable(getattr(comm, "all_reduce", None)):
        raise refusal(
            TypeError,
            "BN-ERR-5",
            got=f"{name}: comm is a {type(comm).__name__}",
            expected="a bnspec.Communicator or None",
            do="Get one by its name with bnspec.get_communicator.",
        )


def _ranked(x: Array, name: str) -> None:
    floating("x", x, name)
    if x.ndim < 2:
        raise refusal(
            ValueError,
            "BN-SHAPE-1",
            got=f"{name}: x has shape {tuple(x.shape)}",
            expected="rank >= 2",
            do="Reshape it to (N, C).",
        )


def _known(config: Any, name: Any) -> bool:
    """Return whether a check that is not made again would have found these in order."""
    return type(config) is BatchNormConfig and type(name) is str


def _read(config: BatchNormConfig) -> tuple[str, ...]:
    """The fields of a state that inference reads and that may not be below 0."""
    return ("var", "count") if config.averaging == "debiased" else ("var",)
