"""Cases at the sizes where kernels change: past a vector, a block, a 16-bit index, a float's integers.

A `Size` is a recipe, short in words however large its arrays are, so that a report can name it and replay make it
again. All elements are small odd integers: their sums, and the sums of their products, are exact in float64 in any
order. So `oracle.float64` is as good as the exact answer and takes seconds. No element is 0, and gamma, beta and the
state differ from channel to channel: whatever a kernel leaves out, takes twice or takes from another channel shows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Case, RankInputs, dtype_named
from bnspec_conformance.cases.scope import Scope

__all__ = [
    "CHOICES",
    "Choice",
    "Size",
    "batch_sizes",
    "choice_of",
    "half_sizes",
    "inference_sizes",
    "part_sizes",
    "plain_config",
    "spread",
]

#: How much of it a run asks for: nothing, what takes some seconds, or what takes minutes too.
Choice = Literal["none", "default", "large"]
CHOICES: tuple[Choice, ...] = ("none", "default", "large")


def choice_of(value: object) -> Choice:
    """Return one of `CHOICES`.

    Raises
    ------
    ValueError
        For anything else.
    """
    for known in CHOICES:
        if value == known:
            return known
    raise ValueError(f"sizes is {value!r:.40}; expected one of {', '.join(CHOICES)}.")


#: Samples, extents between, channels. Elements per channel: 255 to 257, 769, 1025, 4097, 67*67, 100*100, 10007.
Extents = tuple[int, tuple[int, ...], int]
_BATCH: tuple[Extents, ...] = (
    (255, (), 5), (256, (), 33), (257, (), 31), (769, (), 65), (3, (5, 17), 1025), (5, (5, 41), 65), (4097, (), 5),
    (1, (769,), 257), (10007, (), 31), (1, (257,), 1025), (17, (241,), 33), (1, (67, 67), 31), (1, (10007,), 5),
    (1, (100, 100), 65), (2, (2,), 65537),
)  # fmt: skip
_WIDTHS: tuple[Extents, ...] = ((17, (241,), 33),)  # in float64, float16 and bfloat16
_LARGE: tuple[Extents, ...] = (
    (10007, (), 65), (4097, (2,), 257), (1, (263, 263), 33), (2, (3,), 131073), (1, (1025, 1025), 5),
)  # fmt: skip
_INFERENCE: tuple[Extents, ...] = ((257, (), 1025), (1, (67, 67), 33), (1, (10007,), 5), (2, (2,), 65537))

#: The same with a mask, or with a number of samples in each group.
_PARTS: tuple[tuple[Extents, bool, int | None], ...] = (
    ((257, (), 65), True, None), ((3, (37, 41), 33), True, None), ((2, (2,), 65537), True, None),
    ((514, (3,), 33), False, 257), ((2, (67, 67), 5), False, 1), ((6, (29, 31), 65), True, 2),
)  # fmt: skip

#: For a subject that compiles each shape anew, in one layout each.
_FEW: tuple[tuple[Extents, bool], ...] = (((1, (100, 100), 65), True), ((17, (241,), 257), False))


@dataclass(frozen=True)
class Size:
    """Recipe of one case.

    Attributes
    ----------
    shape : tuple of int
        Of x.
    axis : int
        Of the channels.
    dtype : str
        Of x.
    masked : bool
        Whether about a third of the elements count in no statistic.
    virtual_batch_size : int or None
    mode : {"batch", "inference"}
    seed : int
        Of the elements.
    """

    shape: tuple[int, ...]
    axis: int
    dtype: str = "float32"
    masked: bool = False
    virtual_batch_size: int | None = None
    mode: Literal["batch", "inference"] = "batch"
    seed: int = 0

    @property
    def count(self) -> int:
        """Number of elements per channel."""
        return int(np.prod(self.shape, dtype=np.int64)) // self.shape[self.axis]

    def case(self, scope: Scope) -> Case:
        """Return the case, with everything that a scope has: derivatives and the running state after it."""
        rng = np.random.default_rng([self.seed, 41, *self.shape])
        channels, dtype = self.shape[self.axis], dtype_named(self.dtype)
        kept = np.dtype("float64" if self.dtype == "float64" else "float32")
        own = [channels if a == self.axis else 1 for a in range(len(self.shape))]
        x, dy, xdot = (2 * rng.integers(-4, 4, self.shape, np.int8) + 1 for _ in range(3))
        x = x + (2 * rng.integers(-20, 20, channels, np.int8)).reshape(own)
        beside = [1 if a == self.axis else n for a, n in enumerate(self.shape)]
        mask = rng.random(beside) < 2 / 3 if self.masked else None
        inputs = RankInputs(x.astype(dtype), dy.astype(dtype), mask, xdot.astype(dtype))
        gamma, beta, gamma_dot, beta_dot, mean, var = (spread(channels, k).astype(kept) for k in range(6))
        config = plain_config(scope, self.axis, self.virtual_batch_size)
        state = {"mean": mean, "var": np.abs(var)}
        if config.averaging != "exponential":  # a counter belongs to it
            state["count"] = np.full(channels, 3, np.int64)
        case = Case(
            config=config,
            ranks=(inputs,),
            gamma=gamma,
            beta=beta,
            gamma_dot=gamma_dot,
            beta_dot=beta_dot,
            state=state,
            mode=self.mode,
            recipe=repr(self),
        )
        if not case.config.scale:
            case = replace(case, gamma=None, gamma_dot=None)
        return scope.fit(case if case.config.center else replace(case, beta=None, beta_dot=None))


def spread(channels: int, which: int) -> npt.NDArray[np.float64]:
    """Return numbers of 20 bits in +-[0.5, 1.5), each once, those of neighbours far apart."""
    steps = (np.arange(channels, dtype=np.int64) * (654321 + 2 * which) + 99991 * which) % 2**20
    return (0.5 + steps / 2.0**20) * np.where(steps % 3 == 0, -1, 1)


def batch_sizes(scope: Scope, choice: Choice, seed: int, *, compiles: bool = False) -> list[Size]:
    """Return the sizes of a whole batch, the smaller ones first.

    Parameters
    ----------
    scope : Scope
        Of the subject; a size that lies outside is left out.
    choice : {"none", "default", "large"}
    seed : int
    compiles : bool
        Whether each new shape costs much: then there are few.
    """
    if choice == "none":
        return []
    if compiles:
        return _sorted(_laid(scope, e, last, seed=seed) for e, last in _FEW)
    large = choice == "large"
    found = [s for e in _BATCH + (_LARGE if large else ()) for s in _both(scope, e, seed, _first(scope))]
    found += [s for e in (_BATCH if large else _WIDTHS) for s in _both(scope, e, seed, _of(scope, "float64"))]
    return _sorted(found)


def half_sizes(scope: Scope, choice: Choice, seed: int, *, compiles: bool = False) -> list[Size]:
    """Return the sizes of whole batches of 16 bits, the smaller ones first; parameters as above."""
    if choice == "none" or "float32" not in scope.dtypes:
        return []
    extents = _BATCH if choice == "large" else _WIDTHS
    found = [s for e in extents for s in _both(scope, e, seed, _of(scope, "float16", "bfloat16"))]
    return _sorted(found[:1] if compiles else found)


def part_sizes(scope: Scope, choice: Choice, seed: int, *, compiles: bool = False) -> list[Size]:
    """Return the sizes of batches with masks and ghost groups, the smaller ones first; parameters as above."""
    if choice == "none":
        return []
    parts = [p for p in _PARTS if (not p[1] or "mask" in scope) and (p[2] is None or "ghost" in scope)]
    found = [
        replace(s, masked=masked, virtual_batch_size=size)
        for extents, masked, size in (parts[1:2] if compiles else parts)
        for s in _both(scope, extents, seed, _first(scope))
    ]
    return _sorted(found[:1] if compiles else found)


def inference_sizes(scope: Scope, choice: Choice, seed: int, *, compiles: bool = False) -> list[Size]:
    """Return the sizes of inference, the smaller ones first; parameters as above."""
    if choice == "none":
        return []
    extents = _INFERENCE[1:2] if compiles else _INFERENCE + (_LARGE if choice == "large" else ())
    found = [replace(s, mode="inference") for e in extents for s in _both(scope, e, seed, _first(scope))]
    return _sorted(found[:1] if compiles else found)


def _of(scope: Scope, *names: str) -> list[str]:
    return [name for name in names if name in scope.dtypes]


def _first(scope: Scope) -> list[str]:
    return _of(scope, "float32", "float64")[:1]


def _both(scope: Scope, extents: Extents, seed: int, dtypes: Iterable[str]) -> list[Size]:
    """Channels last and channels behind the samples; without axes between, these are one."""
    forms = [_laid(scope, extents, last, seed=seed) for last in ((True, False) if extents[1] else (True,))]
    return [replace(s, dtype=dtype) for dtype in dtypes for s in forms if s is not None]


def _laid(scope: Scope, extents: Extents, last: bool, *, seed: int) -> Size | None:
    """Return a size with as many axes as the scope takes, further ones of extent 1; None if it takes none."""
    samples, between, channels = extents
    ndim = min((n for n in scope.ndims if n >= 2 + len(between)), default=0)
    if not ndim:
        return None
    between = (*between, *[1] * (ndim - 2 - len(between)))
    axis = ndim - 1 if last else 1
    if not scope.takes_axis(axis, ndim):
        return None
    return Size((samples, *between, channels) if last else (samples, channels, *between), axis, seed=seed)


def _sorted(sizes: Iterable[Size | None]) -> list[Size]:
    return sorted(dict.fromkeys(s for s in sizes if s is not None), key=lambda s: int(np.prod(s.shape)))


def plain_config(scope: Scope, axis: int, size: int | None = None) -> BatchNormConfig:
    """Return a configuration inside a scope; what the scope leaves open is the plainest."""
    wanted: dict[str, Any] = {"epsilon": 1e-3, "decay": 0.75, "correction": 1, "single_value": "floor"}
    wanted |= {"averaging": "exponential", "ghost_source": "merged", "virtual_batch_size": size}
    known = BatchNormConfig.__dataclass_fields__
    limits: dict[str, Sequence[Any]] = {
        k: v for k, v in scope.options.items() if k in known and k != "virtual_batch_size"
    }
    wanted |= {k: v[0] for k, v in limits.items() if k not in wanted or wanted[k] not in v}
    return BatchNormConfig(axis=axis, **wanted)
