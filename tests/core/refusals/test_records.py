"""Records that callers make: a call is refused with a clause, or answers as the specification does.

Compiled code checks no index, so that a field of another shape would be read beyond its end; a debugging allocator
(PYTHONMALLOC=debug) sees what these tests let through.
"""

import importlib.util
import itertools
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bnspec
from bnspec import Groups, Moments, Params, RunningState
from bnspec._arrays import library as library_of
from bnspec_backends import cpu

torch = pytest.importorskip("torch", reason="torch is not installed")
COMPILES = importlib.util.find_spec("numba") is not None
CLAUSE = re.compile(r"; expected .*\[BN-[A-Z]+-[1-9][0-9]*\]\. ", re.DOTALL)
CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=0.5, decay=0.75, correction=1)
COUNTING = bnspec.BatchNormConfig(axis=1, epsilon=0.5, decay=0.75, correction=1, averaging="cumulative")
MERGING = bnspec.BatchNormConfig(
    axis=1, epsilon=0.5, decay=0.5, correction=0, averaging="pooled", virtual_batch_size=2, ghost_source="merged"
)
LIMITS = bnspec.Renorm(rmax=2.0, dmax=1.0)
RENORM = bnspec.BatchNormConfig(axis=1, epsilon=0.5, decay=0.75, correction=0, renorm=LIMITS)
CONFIGS = {"plain": CONFIG, "counting": COUNTING, "merging": MERGING, "renorm": RENORM}
LIBRARIES = ("numpy", "torch", "jax")


class Pair(NamedTuple):
    """A tuple as long as `Params`, which it is not."""

    gamma: Any
    beta: Any


class Sub(np.ndarray):
    """A subclass that changes nothing."""


def put(v: Any, library: str) -> Any:
    """An array of NumPy, in a library; everything else as it is."""
    if not isinstance(v, np.ndarray) or library == "numpy":
        return v
    return bnspec.get_backend(library).asarray(v)


def convert(given: Any, library: str) -> Any:
    """A record's arrays, in a library."""
    if isinstance(given, tuple) and hasattr(given, "_fields"):
        return type(given)(*(convert(v, library) for v in given))
    return put(given, library)


def calls(library: str, kind: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The public functions, with arguments that they take. All numbers are small integers, so that sums are exact."""
    config = CONFIGS[kind]
    rng = np.random.default_rng(5)
    x, dy = (put(rng.integers(-4, 5, (4, 3, 2)).astype("float32"), library) for _ in range(2))
    mask = put(np.asarray([[[True]], [[True]], [[False]], [[False]]]), library)
    params, state = bnspec.init(config, channels=3, like=x)
    _, stats, saved = bnspec.batch_norm(x, params, config, state=state)
    _, frozen = bnspec.batch_norm_inference(x, params, state, config)
    rows = put(np.ones(tuple(stats.m2.shape), "float32"), library)
    vector = put(np.asarray([1.0, -2.0, 3.0], "float32"), library)
    groups = saved.static.groups
    ready = {"params": params, "config": config, "name": "bn"}
    return {
        "batch_norm": (bnspec.batch_norm, {"x": x, **ready, "state": state, "mask": None, "comm": None}),
        "batch_norm of a mask": (bnspec.batch_norm, {"x": x, **ready, "state": state, "mask": mask}),
        "batch_norm_inference": (bnspec.batch_norm_inference, {"x": x, **ready, "state": state}),
        "update_running": (bnspec.update_running, {"state": state, "stats": stats, "config": config, "name": "bn"}),
        "running_statistics": (bnspec.running_statistics, {"state": state, "config": config}),
        "batch_norm_vjp": (bnspec.batch_norm_vjp, {"dy": dy, "saved": saved, "comm": None}),
        "batch_norm_vjp of more": (bnspec.batch_norm_vjp, {"dy": dy, "saved": saved, "dmean": rows, "dvar": rows}),
        "batch_norm_vjp, frozen": (bnspec.batch_norm_vjp, {"dy": dy, "saved": frozen}),
        "batch_norm_tangents": (bnspec.batch_norm_tangents, {"xdot": dy, "saved": saved, "gamma_dot": vector,
                                                             "beta_dot": vector, "comm": None}),
        "batch_norm_jvp, frozen": (bnspec.batch_norm_jvp, {"xdot": dy, "saved": frozen}),
        "moments": (bnspec.moments, {"x": x, "groups": groups, "mask": mask}),
        "merge": (bnspec.merge, {"a": stats, "b": stats}),
        "init": (bnspec.init, {"config": config, "channels": 3, "like": x}),
    }  # fmt: skip


NAMES = tuple(calls("numpy", "plain"))


def paths(given: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every argument and, inside of records, every field."""
    if isinstance(given, dict):
        return [p for key, v in given.items() for p in paths(v, (*so_far, key))]
    own = [so_far]
    if hasattr(given, "_fields"):
        own += [p for key in given._fields for p in paths(getattr(given, key), (*so_far, key))]
    elif hasattr(given, "__dataclass_fields__") and not isinstance(given, bnspec.BatchNormConfig):
        own += [p for key in given.__dataclass_fields__ for p in paths(getattr(given, key), (*so_far, key))]
    return own


def at(given: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a path."""
    for key in path:
        given = given[key] if isinstance(given, dict) else getattr(given, key)
    return given


def replaced(given: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The same with another value at a path."""
    if not path:
        return value
    inner = replaced(at(given, path[:1]), path[1:], value)
    if isinstance(given, dict):
        return given | {path[0]: inner}
    if hasattr(given, "_replace"):
        return given._replace(**{path[0]: inner})
    fields = {key: getattr(given, key) for key in given.__dataclass_fields__}
    return type(given)(**(fields | {path[0]: inner}))


def _misaligned(v: Any) -> Any:
    raw = np.zeros(v.nbytes + 1, "uint8")
    made = raw[1:].view(v.dtype).reshape(v.shape) if v.size else v
    made[...] = v
    return made


def _frozen(v: Any) -> Any:
    v = v.copy()
    v.flags.writeable = False
    return v


SHAPES = {
    "shorter": lambda v: v[..., :-1],
    "one": lambda v: v[..., :1],
    "empty": lambda v: v[:0],
    "more": lambda v: v[None],
    "less": lambda v: v[0],
    "flat": lambda v: v.reshape(-1),
    "turned": lambda v: v.T if v.ndim == 2 else v.reshape(v.shape[::-1]),
}
NUMPY: dict[str, Any] = {
    "longer": lambda v: np.concatenate([v, v], -1),
    "taller": lambda v: np.concatenate([v, v], 0),
    "gaps": lambda v: np.repeat(v, 2, -1)[..., ::2],
    "backwards": lambda v: v[..., ::-1].copy()[..., ::-1],
    "spread": lambda v: np.broadcast_to(v[..., :1], v.shape),
    "frozen": _frozen,
    "misaligned": _misaligned,
    "swapped": lambda v: v.astype(v.dtype.newbyteorder()),
    "subclass": lambda v: v.view(Sub),
    "matrix": lambda v: v.reshape(v.shape[0], -1).view(np.matrix),
    "masked": lambda v: np.ma.masked_array(v, mask=np.zeros(v.shape, bool)),
    "list": lambda v: v.tolist(),
    **{f"as {kind}": lambda v, kind=kind: v.astype(kind) for kind in (
        "int8", "int64", "uint64", "bool", "float16", "float32", "float64", ">f8", "longdouble", "complex64", "object",
    )},
}  # fmt: skip
TORCH: dict[str, Any] = {
    "gaps": lambda v: torch.repeat_interleave(v, 2, -1)[..., ::2],
    "spread": lambda v: v[..., :1].expand(v.shape),
    "meta": lambda v: v.to("meta"),
    "sparse": lambda v: v.to_sparse(),
    "parameter": lambda v: torch.nn.Parameter(v, requires_grad=v.is_floating_point()),
    "numpy": lambda v: v.numpy(),
    **{f"as {kind}": lambda v, kind=kind: v.to(getattr(torch, kind)) for kind in (
        "int8", "int64", "bool", "float16", "bfloat16", "float32", "float64", "complex64",
    )},
}  # fmt: skip
JAX: dict[str, Any] = {
    "numpy": np.asarray,
    **{
        f"as {kind}": lambda v, kind=kind: v.astype(kind)
        for kind in ("int8", "bool", "float16", "float32", "complex64")
    },
}
ODD = {"numpy": SHAPES | NUMPY, "torch": SHAPES | TORCH, "jax": SHAPES | JAX}
OTHERS: tuple[Any, ...] = (
    None,
    3,
    -1.5,
    True,
    "text",
    (),
    {},
    np.float32,
    np.float64(2.0),
    Params(None, None),
    object(),
)


def oddities(v: Any, library: str) -> list[Any]:
    """What may stand in the place of a value: names of changes to an array, or other values."""
    found: list[Any] = [("value", other) for other in OTHERS]
    if isinstance(v, tuple):
        found += [("tuple", None), ("dict", None), ("pair", None)]
    elif hasattr(v, "shape"):
        found += [("array", name) for name in ODD[library]]
    elif isinstance(v, Groups):
        make: Any = Groups
        found += [("value", make(a, n)) for a in (-1, 0, 2, 9, 1.0, [1]) for n in (0, 1, 2, 3, -2, 1.0)]
    elif isinstance(v, int):
        found += [("value", other) for other in (-1, 0, 2, np.int64(2), 2.0)]
    return found


def changed(v: Any, how: tuple[str, Any], library: str) -> Any:
    """A value after one of its oddities."""
    kind, what = how
    if kind == "value":
        return what
    if kind == "array":
        return ODD[library][what](v)
    return tuple(v) if kind == "tuple" else v._asdict() if kind == "dict" else Pair(*tuple(v)[:2])


def flat(found: Any) -> list[Any]:
    """The arrays of a result, both parts of a mean as one; what was saved holds what was given besides."""
    if isinstance(found, bnspec.Saved):
        own = (found.centre, found.centre_low, found.centre + found.centre_low, found.inverse_stddev, found.r, found.d)
        return [Looks(v) if i < 2 else v for i, v in enumerate(own) if v is not None]
    if isinstance(found, Moments):
        return [found.count, Looks(found.mean), Looks(found.mean_low), found.mean + found.mean_low, found.m2]
    if isinstance(found, tuple):
        return [a for v in found for a in flat(v)]
    return [] if found is None else [found]


class Looks:
    """An array of which the numbers may differ."""

    def __init__(self, v: Any) -> None:
        self.v = v


def look(v: Any) -> tuple[Any, ...]:
    """Shape, library and dtype; the latter with its byte order."""
    return tuple(v.shape), str(v.dtype), library_of(v)


def host(v: Any) -> Any:
    v = v.detach() if hasattr(v, "detach") else v
    return np.asarray(v.to(torch.float64) if isinstance(v, torch.Tensor) else v, "float64")


def agree(mine: Any, wanted: Any) -> None:
    """The same shapes and dtypes, and numbers a few roundoffs apart: sums of these are exact, square roots are not."""
    for a, b in zip(flat(mine), flat(wanted), strict=True):
        if isinstance(a, Looks):
            assert look(a.v) == look(b.v)
            continue
        assert look(a) == look(b)
        if str(getattr(a, "device", "")) == "meta":
            continue
        u = {2: 2.0**-8, 4: 2.0**-24}.get(a.dtype.itemsize, 2.0**-53)
        got, true = host(a), host(b)
        assert (np.isnan(got) == np.isnan(true)).all()
        finite = np.isfinite(true)
        assert (got == true)[~finite & ~np.isnan(true)].all()
        assert (np.abs(got - true)[finite] <= 8 * u * np.abs(true[finite]).max(initial=0)).all()


def tried(call: Any, given: dict[str, Any]) -> Any:
    """The result, or None after a refusal in the specification's words; anything else that is raised goes on."""
    try:
        with np.errstate(all="ignore"):
            return call(**given)
    except (TypeError, ValueError) as error:
        if not CLAUSE.search(str(error)):
            raise
        return None


def check(library: str, kind: str, name: str, changes: list[tuple[tuple[Any, ...], tuple[str, Any]]]) -> None:
    call, given = calls(library, kind)[name]
    for path, how in changes:
        try:
            given = replaced(given, path, changed(at(given, path), how, library))
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError):
            continue  # there is no such array, or another change took the field away
    mine = tried(call, given)
    with cpu.using("specification"):
        wanted = tried(call, given)
    assert (mine is None) == (wanted is None)
    agree(mine, wanted)


@st.composite
def changes(draw: Any, library: str, kind: str, name: str) -> Any:
    """One field or two, and what becomes of each."""
    given = calls(library, kind)[name][1]
    places = paths(given)
    chosen = draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True))
    return [(path, draw(st.sampled_from(oddities(at(given, path), library)))) for path in chosen]


@pytest.mark.parametrize("library", LIBRARIES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_in_a_record_is_refused_or_answered_right(library: str, data: Any) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    kind, name = data.draw(st.sampled_from(tuple(CONFIGS))), data.draw(st.sampled_from(NAMES))
    check(library, kind, name, data.draw(changes(library, kind, name)))


def large() -> tuple[bnspec.BatchNormConfig, RunningState, Moments]:
    """A state and moments of so many channels that what lies beyond a short array is another's memory."""
    x = np.zeros((4, 100_000), "float32")
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.0, correction=0)
    _, state = bnspec.init(config, channels=x.shape[1], like=x)
    return config, state, bnspec.moments(x, Groups(1, 1))


@pytest.mark.parametrize(
    ("fields", "clause"),
    [
        ({"mean": np.ones((1, 1)), "mean_low": np.ones((1, 1))}, "BN-MOM-2"),
        ({"m2": np.ones((1, 1))}, "BN-MOM-2"),
        ({"m2": np.ones(100_000)}, "BN-MOM-3"),
        ({"count": np.asarray([4.0])}, "BN-MOM-1"),
        ({"count": np.asarray([4, 4])}, "BN-MOM-1"),
        ({"count": np.asarray([4], "uint8")}, "BN-MOM-1"),
        ({"count": np.asarray([-4])}, "BN-RUN-14"),
        ({"m2": np.full((1, 100_000), -1.0)}, "BN-RUN-14"),
        ({"mean": np.ones((1, 100_000), "float32")}, "BN-PREC-1"),
    ],
)
def test_moments_of_another_kind_do_not_reach_the_state(fields: dict[str, Any], clause: str) -> None:
    config, state, stats = large()
    before = [v.tobytes() for v in state if v is not None]
    with pytest.raises((TypeError, ValueError), match=clause):
        bnspec.update_running(state, stats._replace(**fields), config)
    assert [v.tobytes() for v in state if v is not None] == before


@pytest.mark.parametrize("kernels", ["compiled", "blocked", "specification"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("samples", [0, 4])
def test_results_have_the_byte_order_of_what_they_belong_to(kernels: str, kind: str, samples: int) -> None:
    """y, dx and ydot have x's dtype, gradients of parameters theirs, the new state the old one's: byte order too."""
    if kernels == "compiled" and not COMPILES:
        pytest.skip("numba is not installed")
    rng = np.random.default_rng(0)
    for order, other, masked in itertools.product("<>", "<>", (False, True)):
        x, dy = (rng.integers(-4, 5, (samples, 3, 2)).astype(order + kind) for _ in range(2))
        params = Params(*(np.ones(3, other + "f8") for _ in range(2)))
        state = RunningState(np.zeros(3, other + "f4"), np.ones(3, other + "f4"), count=np.ones(3, other + "i4"))
        mask = np.asarray([True, True, False, False])[:samples, None, None] if masked else None
        with cpu.using(kernels):
            y, stats, saved = bnspec.batch_norm(x, params, COUNTING, mask=mask)
            grads, tangents = bnspec.batch_norm_vjp(dy, saved), bnspec.batch_norm_tangents(dy, saved)
            new = bnspec.update_running(state, stats, COUNTING)
            seen, frozen = bnspec.batch_norm_inference(x, params, state, COUNTING)
            also = bnspec.batch_norm_vjp(dy, frozen).x, bnspec.batch_norm_jvp(dy, frozen)
        assert {v.dtype for v in (y, grads.x, tangents.y, seen, *also)} == {x.dtype}
        assert {v.dtype for v in flat(grads[1:])} == {np.dtype(other + "f8")}
        assert [str(v.dtype) for v in flat(new)] == [str(v.dtype) for v in flat(state)]
        assert all(v.dtype.isnative for v in (*stats, saved.centre, saved.inverse_stddev))
        native = x.astype(x.dtype.newbyteorder("="))
        with cpu.using(kernels):
            assert np.array_equal(bnspec.batch_norm(native, params, COUNTING, mask=mask)[0], y)


def test_moments_and_merge_use_the_kernels_of_the_library() -> None:
    """The public functions check what comes, and compute as a layer does."""

    class Counting(bnspec.Kernels):
        _asked = 0

        def moments(self, *given: Any) -> Moments:
            self._asked += 1
            return super().moments(*given)

    own, x = Counting(), np.ones((4, 3), "float32")
    with bnspec.use_kernels("numpy", own):
        bnspec.moments(x, Groups(1, 1))
        assert own._asked == 1
        for bad in (x.astype("complex64"), x.astype("int32"), x[0]):
            with pytest.raises((TypeError, ValueError), match=r"BN-SHAPE-[15]"):
                bnspec.moments(bad, Groups(1, 1))
        for groups in (Groups(2, 1), Groups(-1, 1), Groups(1, 3), Groups(0, 2), Groups(1, 0)):
            with pytest.raises(ValueError, match=r"BN-(SHAPE-2|GRP-3)"):
                bnspec.moments(x, groups)
    assert own._asked == 1
    one, two = bnspec.moments(x, Groups(1, 1)), bnspec.moments(x, Groups(1, 2))
    with pytest.raises(ValueError, match="BN-MOM-7"):
        bnspec.merge(one, two)


@pytest.mark.skipif(not COMPILES, reason="numba is not installed")
def test_compiled_kernels_check_what_bypasses_the_doors() -> None:
    kernels, x = cpu.make("compiled"), np.ones((4, 3), "float32")
    one = np.ones((1, 3))
    for call in (
        lambda: kernels.moments(x, Groups(1, 3), None),
        lambda: kernels.moments(x, Groups(5, 1), None),
        lambda: kernels.moments(x, Groups(1, 1), np.ones((4, 1))),
        lambda: kernels.grad_sums(x[:2], x, one, Groups(1, 1), None),
        lambda: kernels.grad_input(x[:, :2], x, one, one, one, one, Groups(1, 1), None),
        lambda: kernels.normalize(x, one, one, np.ones((2, 3)), Groups(1, 1)),
    ):
        with pytest.raises(ValueError):
            call()


@pytest.mark.parametrize("value", ["False", 0, 1, None, "", np.ones(1)])
def test_a_switch_is_a_boolean(value: Any) -> None:
    with pytest.raises(TypeError, match="BN-UPD-7"), bnspec.training_context(value):
        pass
    with pytest.raises(TypeError, match="BN-UPD-7"):
        bnspec.TrainingContext(value)
    off: Any = np.bool_(False)
    with bnspec.training_context(off) as context:
        assert context.is_training is False


def test_an_answer_of_a_communicator_is_checked() -> None:
    class Deaf:
        rank, size = 0, 2

        def all_reduce(self, payload: Any, combine: Any, signature: Any) -> Any:
            return payload[:, :-1]

    x = np.ones((4, 3), "float32")
    params, _ = bnspec.init(CONFIG, channels=3, like=x)
    with pytest.raises(bnspec.CommunicatorError, match="BN-SYNC-9"):
        bnspec.batch_norm(x, params, CONFIG, comm=Deaf())
