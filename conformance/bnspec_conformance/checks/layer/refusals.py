"""Tables of what is refused: the calls, the clause each breaks, and what its text must and must not say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Array

__all__ = ["Refusal", "Setting", "arrays", "masks", "options", "timing"]

#: The package without its types: most arguments below are wrong on purpose.
_make: Any = bnspec

#: A value no text may show: it is in arrays only.
_SECRET = 7351.25


@dataclass
class Setting:
    """A layer in the middle of training."""

    put: Callable[[Array], Any]
    layer: bnspec.BatchNorm
    updates: bnspec.UpdateCollection
    x: Any
    dy: Any

    def train(self, x: Any, **more: Any) -> Any:
        """Call the layer in a training context."""
        with bnspec.training_context(updates=self.updates):
            return self.layer(x, **more)


@dataclass
class Refusal:
    """One refusal."""

    what: str
    call: Callable[[], Any]
    kinds: type[Exception] | tuple[type[Exception], ...]
    clause: str
    words: tuple[str, ...] = ()  # what the part before the clause mentions
    given: tuple[Any, ...] = ()  # arrays that may not change
    contents: tuple[str, ...] = ("7351",)


def config(**fields: Any) -> bnspec.BatchNormConfig:
    """Return a configuration, valid but for the given fields."""
    made: bnspec.BatchNormConfig = _make.BatchNormConfig(
        **({"axis": 1, "epsilon": 1e-3, "decay": 0.5, "correction": 0} | fields)
    )
    return made


def arrays(s: Setting) -> Iterator[Refusal]:
    """Arrays and axes that no function takes."""

    def full(*shape: int, dtype: str = "float32") -> Any:
        return s.put(np.full(shape, True if dtype == "bool" else int(_SECRET) if "int" in dtype else _SECRET, dtype))

    plain = config()
    params, state = bnspec.init(plain, channels=3, like=s.x)
    _, stats, saved = bnspec.batch_norm(s.x, params, plain)

    def three(what: str, x: Any, kind: type[Exception], clause: str, *words: str) -> Iterator[Refusal]:
        for how, call in (
            ("layer", lambda: s.train(x)),
            ("function", lambda: bnspec.batch_norm(x, params, plain)),
            ("inference", lambda: bnspec.batch_norm_inference(x, params, state, plain)),
        ):
            yield Refusal(f"{what} ({how})", call, kind, clause, words, (x,))

    yield from three("rank 1", full(3), ValueError, "BN-SHAPE-1", "(3,)")
    yield from three("rank 0", full(), ValueError, "BN-SHAPE-1", "()")
    for dtype in ("int32", "uint8", "bool", "complex64"):
        if dtype != "uint8":
            yield from three(dtype, full(6, 3, dtype=dtype), TypeError, "BN-SHAPE-5", dtype)
    yield from three("a list", [[_SECRET] * 3] * 6, TypeError, "BN-SHAPE-5", "list")
    yield from three("another number of channels", full(6, 4), ValueError, "BN-SHAPE-6", "gamma", "(3,)", "(4,)")
    for axis in (2, -3, 5):
        bad = config(axis=axis)
        yield Refusal(
            f"axis {axis}", partial(bnspec.batch_norm, s.x, params, bad), ValueError, "BN-SHAPE-2", (f"axis={axis}",)
        )
        layer = bnspec.BatchNorm(axis=axis)
        yield Refusal(
            f"axis {axis} of a layer", partial(layer, s.x), ValueError, "BN-SHAPE-2", (f"axis={axis}",), (layer,)
        )
    for shape in ((1,), (4,), (3, 1), (1, 3), ()):
        vector = full(*shape)
        for field in ("gamma", "beta"):
            wrong = params._replace(**{field: vector})
            yield Refusal(
                f"{field} {shape}",
                partial(bnspec.batch_norm, s.x, wrong, plain),
                ValueError,
                "BN-SHAPE-6",
                (field,),
                (vector,),
            )
        for field in ("mean", "var"):
            held = state._replace(**{field: vector})
            words = (f"state.{field}", str(shape))
            yield Refusal(
                f"{field} {shape}",
                partial(bnspec.update_running, held, stats, plain),
                ValueError,
                "BN-SHAPE-6",
                words,
                (vector,),
            )
            yield Refusal(f"{field} {shape}, inference", partial(bnspec.batch_norm_inference, s.x, params, held, plain),
                      ValueError, "BN-SHAPE-6", words, (vector,))  # fmt: skip
    for virtual in (4, 5, 7):
        bad = config(virtual_batch_size=virtual)
        words = (f"virtual_batch_size={virtual}", "6")
        yield Refusal(f"V={virtual}", partial(bnspec.batch_norm, s.x, params, bad), ValueError, "BN-GRP-3", words)
        layer = bnspec.BatchNorm(virtual_batch_size=virtual)
        yield Refusal(f"V={virtual} of a layer", partial(layer, s.x), ValueError, "BN-GRP-3", words, (layer,))
    zero = config(virtual_batch_size=2, axis=0)
    six = bnspec.init(zero, channels=6, like=s.x)[0]
    yield Refusal(
        "V with channels on axis 0", lambda: bnspec.batch_norm(s.x, six, zero), ValueError, "BN-GRP-3", ("axis 0",)
    )
    for what, dy in (("rank", full(3)), ("shape", full(6, 4)), ("batch", full(5, 3))):
        yield Refusal(
            f"dy of another {what}", partial(bnspec.batch_norm_vjp, dy, saved), ValueError, "BN-GRAD-1", ("dy",), (dy,)
        )
        yield Refusal(
            f"dy of another {what}, layer", partial(s.layer.backward, dy), ValueError, "BN-GRAD-1", ("dy",), (dy,)
        )
    yield Refusal(
        "integer dy", lambda: s.layer.backward(full(6, 3, dtype="int32")), TypeError, "BN-SHAPE-5", ("dy", "int32")
    )


def masks(s: Setting) -> Iterator[Refusal]:
    """Masks that do not fit x."""
    for shape in ((5,), (6, 2), (1, 2), (5, 1), (6, 1, 1), (2, 1), ()):
        mask = s.put(np.ones(shape, bool))
        yield Refusal(
            f"mask {shape}", partial(s.train, s.x, mask=mask), ValueError, "BN-MASK-7", ("mask", str(shape)), (mask,)
        )
    for dtype in ("float32", "int32"):
        mask = s.put(np.ones((6, 1), dtype))
        yield Refusal(
            f"mask of {dtype}", partial(s.train, s.x, mask=mask), TypeError, "BN-MASK-7", ("mask", dtype), (mask,)
        )
    yield Refusal("a list", lambda: s.train(s.x, mask=[[True]] * 6), TypeError, "BN-MASK-7", ("mask", "list"))


def options(s: Setting) -> Iterator[Refusal]:
    """Options outside their range; in configurations, in layers, and set on a layer."""
    nan, inf = float("nan"), float("inf")
    numbers: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
        ("epsilon", "BN-NORM-1", (-1e-5, -1, nan, inf, -inf, "1", True)),
        ("decay", "BN-RUN-1", (1.5, -0.1, nan, inf, "0.9", True)),
        ("correction", "BN-RUN-3", (2, -1, True, 0.5)),
        ("virtual_batch_size", "BN-GRP-3", (0, -1, 2.0, True)),
        ("averaging", "BN-RUN-1", ("ema",)),
        ("ghost_source", "BN-RUN-8", ("last",)),
        ("sync_weighting", "BN-SYNC-8", ("sample",)),
        ("single_value", "BN-RUN-4", ("ignore",)),
        ("nonfinite", "BN-RUN-10", ("drop",)),
    )
    both = (ValueError, TypeError)
    for field, clause, values in numbers:
        for value in values:
            words = (field, repr(value))
            yield Refusal(f"{field}={value!r}", partial(config, **{field: value}), both, clause, words)
            yield Refusal(f"{field}={value!r}, layer", partial(_make.BatchNorm, **{field: value}), both, clause, words)
    for axis in (1.0, True, "1"):
        yield Refusal(f"axis={axis!r}", partial(config, axis=axis), both, "BN-SHAPE-2", ("axis", repr(axis)))
    renorm = bnspec.BatchRenorm(2.0, 1.0)
    renorm(s.x)
    for field, values in (("rmax", (0.5, 0.0, -2.0, nan, inf)), ("dmax", (-1.0, nan, inf))):
        for value in values:
            words = (field, repr(value))
            one = {"rmax": 2.0, "dmax": 1.0, field: value}
            yield Refusal(f"{field}={value}", partial(_make.Renorm, **one), ValueError, "BN-RENORM-9", words)
            yield Refusal(
                f"{field}={value}, layer", partial(_make.BatchRenorm, **one), ValueError, "BN-RENORM-9", words
            )
            yield Refusal(
                f"{field}={value}, set",
                partial(setattr, renorm, field, value),
                ValueError,
                "BN-RENORM-9",
                words,
                (renorm,),
            )
    bare = config(renorm=renorm.renorm)
    yield Refusal("no state", lambda: bnspec.batch_norm(s.x, _params(s), bare), TypeError, "BN-RENORM-4", ("renorm",))
    seed: dict[str, Any] = {"dialect": "tensorpack"}
    both_ways = {"virtual_batch_size": 2, "sync_statistics": "nccl"} | seed
    yield Refusal(
        "ghost and sync", lambda: _make.BatchNorm(**both_ways), ValueError, "BN-SYNC-5", (*both_ways, "tensorpack")[:2]
    )
    three = s.put(np.full((2, 3, 4), _SECRET, "float32"))
    yield Refusal(
        "rank 3", lambda: bnspec.BatchNorm(**seed)(three), ValueError, "BN-SHAPE-1", ("tensorpack",), (three,)
    )
    yield Refusal("an unknown argument", lambda: bnspec.BatchNorm(momentun=0.9), TypeError, "BN-ERR-1", ("momentun",))
    yield Refusal(
        "an argument twice",
        lambda: bnspec.BatchNorm(decay=0.9, momentum=0.9),
        TypeError,
        "BN-ERR-1",
        ("decay", "momentum"),
    )
    for switch in ("center", "scale"):
        off = config(**{switch: False})
        yield Refusal(
            f"{switch} off and given",
            partial(bnspec.batch_norm, s.x, _params(s), off),
            ValueError,
            "BN-NORM-2",
            (switch,),
        )


def _params(s: Setting) -> bnspec.Params:
    return bnspec.init(config(), channels=3, like=s.x)[0]


def timing(s: Setting) -> Iterator[Refusal]:
    """Calls of a layer with correction=1 that come at the wrong time, or with one value per channel."""
    layer = bnspec.BatchNorm(correction=1, name="alone")
    layer(s.x)
    one = s.put(np.full((1, 3), _SECRET, "float32"))
    yield Refusal("one value", lambda: layer(one), ValueError, "BN-RUN-4", ("alone", "1 value"), (layer, one))
    yield Refusal("no collection", lambda: s.layer(s.x), RuntimeError, "BN-UPD-3", ("bn7", "collection"))
    for tower in (-1, 1.0, True):
        yield Refusal(
            f"tower {tower!r}", _make.training_context(tower=tower).__enter__, (ValueError, TypeError), "BN-UPD-6"
        )
