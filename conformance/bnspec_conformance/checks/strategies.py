"""Hypothesis strategies for cases: shapes, dtypes, options and arrays, in layers.

The structure of a case (shape, dtype, configuration) is drawn piece by piece, so that it shrinks to the
smallest one that fails; the elements come from one of a few families with a drawn seed. Names are plural
nouns; every strategy takes the subject, whose dtypes bound what is drawn.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bnspec import BatchNormConfig, Renorm
from bnspec_conformance.cases.case import Array, Case, RankInputs, dtype_named
from bnspec_conformance.cases.inputs.families import exact_inputs
from bnspec_conformance.cases.limits import choose_dtype
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects import NotSupported, Subject

__all__ = [
    "SHAPE",
    "arrays",
    "cases",
    "configs",
    "dtypes",
    "masks",
    "shapes",
    "states",
]

#: Few shapes for a subject that compiles anew for each (it declares few examples).
_COMPILED = ((4, 3), (4, 2, 3), (4, 3, 2, 2), (2, 2, 1, 3, 2))
SHAPE = (4, 3, 2)  #: of `examples.example` and lean cases, so that it is compiled once
_HALF_PRECISION = ("float16", "bfloat16")


def dtypes(subject: Subject, *, half_precision: bool = True) -> st.SearchStrategy[Any]:
    """Dtypes of x that the subject takes; float32 comes first, so examples shrink to it."""
    names = [
        n for n in ("float32", "float64", *(_HALF_PRECISION if half_precision else ())) if n in subject.scope.dtypes
    ]
    if not names:
        raise NotSupported("it has no float32 and no float64")
    return st.sampled_from(names).map(dtype_named)


@st.composite
def shapes(
    draw: st.DrawFn, subject: Subject, *, samples: int | None = None, multiple: int = 1
) -> tuple[tuple[int, ...], int]:
    """A shape of rank 2 to 5 and a channel axis other than 0, in scope; small enough for exact arithmetic."""
    scope = subject.scope
    if subject.examples < 10:
        shape = list(draw(st.sampled_from([s for s in _COMPILED if len(s) in scope.ndims])))
        axis = draw(st.sampled_from([a for a in (1, len(shape) - 1) if scope.takes_axis(a, len(shape))]))
        if samples is not None:
            shape[0] = samples
        return (-(-shape[0] // multiple) * multiple, *shape[1:]), axis
    rank = draw(st.sampled_from([n for n in (2, 4, 3, 5) if n in scope.ndims]), label="rank")
    axis = draw(st.sampled_from([a for a in range(1, rank) if scope.takes_axis(a, rank)]), label="axis")
    largest = {2: 8, 3: 5, 4: 3, 5: 2}[rank]
    shape = [draw(st.integers(1, largest if a != axis else 3), label=f"dimension {a}") for a in range(rank)]
    if samples is None:
        others = multiple * int(np.prod([n for a, n in enumerate(shape) if a not in (0, axis)]))
        least = -(-scope.min_count // others)  # groups of `multiple` samples
        samples = multiple * draw(st.integers(least, max(least, 8 // multiple or 1)), label="N")
    shape[0] = samples
    return tuple(shape), axis


def arrays(
    shape: tuple[int, ...], dtype: Any, *, axis: int | None = None, plain: bool = False
) -> st.SearchStrategy[Array]:
    """Arrays of one of a few families: normal, normal around a large mean, spread over magnitudes, constant, exact."""
    kinds = (
        ("normal",) if plain else ("normal", "shifted", "wide", "constant", "exact" if axis is not None else "normal")
    )

    def build(kind: str, seed: int, exponent: int) -> Array:
        rng = np.random.default_rng(seed)
        if kind == "exact" and axis is not None:
            return exact_inputs(rng, shape, axis, dtype)
        values = rng.standard_normal(shape)
        if kind == "shifted":
            values = values + 10.0 ** min(exponent, 1 if np.dtype(dtype).itemsize == 2 else 4)
        elif kind == "wide":
            values = values * np.exp(2 * rng.standard_normal(shape))
        elif kind == "constant":
            values = np.broadcast_to(values.flat[0] if values.size else 0.0, shape)
        return np.asarray(values).astype(dtype, order="C")

    return st.builds(build, st.sampled_from(kinds), st.integers(0, 2**16), st.integers(0, 4))


def masks(
    shape: tuple[int, ...], axis: int, *, channels: bool = False, groups: int = 1, least: int = 1
) -> st.SearchStrategy[Array]:
    """Masks that broadcast against x in one of the allowed ways, with some elements masked and some not.

    Parameters
    ----------
    shape : tuple of int
        Of x.
    axis : int
        The channel axis.
    channels : bool
        Whether the mask has the channels' extent, so that each has missing values of its own, or extent 1 there.
    groups, least : int
        A channel that would be left with some elements of a group, but fewer than `least`, keeps all of them.
    """
    full = tuple(n if a != axis or channels else 1 for a, n in enumerate(shape))
    samples = tuple(n if a in (0, axis) else 1 for a, n in enumerate(full))
    others = tuple(a for a in range(len(shape)) if a != axis)

    def build(by_sample: bool, seed: int, share: float) -> Array:
        mask = np.random.default_rng(seed).random(samples if by_sample else full) < share
        if mask.size:
            mask.flat[0] = True
        for group in np.split(mask, groups) if least > 1 else ():
            held = np.broadcast_to(group, (len(group), *full[1:])).sum(axis=others, keepdims=True)
            group |= (held > 0) & (held < least)
        return mask

    return st.builds(build, st.booleans(), st.integers(0, 2**16), st.sampled_from((0.7, 0.3, 1.0)))


@st.composite
def configs(
    draw: st.DrawFn,
    /,
    axis: int,
    *,
    scope: Scope | None = None,
    ghost: int | None = None,
    renorm: bool = False,
    running: bool = False,
    **fixed: Any,
) -> BatchNormConfig:
    """Valid configurations, inside a scope where one is given; `fixed` fields keep their value."""
    limits: Mapping[str, tuple[Any, ...]] = {} if scope is None else scope.options

    def choose(name: str, *usual: Any) -> Any:
        allowed = limits.get(name)
        values = usual if allowed is None else [v for v in usual if v in allowed] or allowed
        return draw(st.sampled_from(values), label=name)

    fields: dict[str, Any] = {
        "axis": axis,
        "epsilon": choose("epsilon", 1e-5, 1e-3, 1.0, 1e-12),
        "decay": choose("decay", 0.9, 0.5, 0.999, 0.0),
        "correction": 0,
        "center": choose("center", True, True, False),
        "scale": choose("scale", True, True, False) if scope is None or scope.affine == "separate" else True,
        "virtual_batch_size": ghost,
    }
    if renorm:
        fields["renorm"] = Renorm(
            form=choose("renorm.form", "tensorpack", "paper"),
            rmax=draw(st.sampled_from((1.5, 1.0, 3.0)), label="rmax"),
            dmax=draw(st.sampled_from((0.5, 0.0, 5.0)), label="dmax"),
            decay=draw(st.sampled_from((0.99, 0.5)), label="renorm decay"),
        )
    if running:
        fields["correction"] = choose("correction", 0, 1)
        fields["single_value"] = choose("single_value", "floor")
        if not renorm:
            fields["averaging"] = choose("averaging", "exponential", "cumulative", "pooled", "debiased")
        sources = ("first", "merged", "sequential") + (("mean",) if fields.get("averaging") != "pooled" else ())
        fields["ghost_source"] = choose("ghost_source", *sources)
    for name, allowed in limits.items():  # what was not drawn, but can only be one thing
        if name in BatchNormConfig.__dataclass_fields__ and name not in fields and name not in fixed:
            fields[name] = allowed[0]
    if scope is not None and scope.affine == "together":
        fields["scale"] = fields["center"] = fixed.get("scale", fixed.get("center", fields["center"]))
    if limits.get("correction") == (1,) and "correction" not in fixed:
        fields["correction"] = 1
    return BatchNormConfig(**(fields | fixed))


def states(config: BatchNormConfig, channels: int, dtype: Any, seed: int, *, fresh: bool = False) -> dict[str, Array]:
    """Return a running state the configuration can have: fresh, or after some updates."""
    rng = np.random.default_rng([seed, 7])
    kept = np.dtype("float64" if dtype == np.float64 else "float32")

    def draw(low: float, high: float) -> Array:
        return rng.uniform(low, high, channels).astype(kept)

    zero = np.zeros(channels, kept)
    debiased = config.averaging == "debiased"
    state = {"mean": draw(-2, 2), "var": draw(0.2, 3)}
    if fresh:
        state = {"mean": zero, "var": zero if debiased else zero + 1}
    if config.counts_updates:
        state["count"] = np.full(channels, 0 if fresh else int(rng.integers(1, 9)), "int64")
    if config.renorm is not None:
        state["stddev"] = zero + 1 if fresh else draw(0.3, 2)
        if config.renorm.form == "tensorpack":
            state["renorm_mean"] = zero if fresh else draw(-1, 1)
            state["renorm_stddev"] = zero + 1 if fresh else draw(0.3, 2)
    return state


@st.composite
def cases(
    draw: st.DrawFn,
    /,
    subject: Subject,
    *,
    ghost: bool = False,
    renorm: bool = False,
    mask: bool = False,
    channel_masks: bool = False,
    ranks: int = 1,
    running: bool = False,
    derivatives: bool = False,
    statistics: bool = False,
    inference: bool = False,
    half_precision: bool = True,
    plain: bool = False,
    lean: bool = False,
    dtype: Any = None,
    **fixed: Any,
) -> Case:
    """Whole cases.

    Parameters
    ----------
    ghost, renorm, mask, running
        Draw ghost groups of a random size, renorm, a mask, the options of the running state.
    channel_masks : bool
        Whether masks have the channels' extent.
    ranks : int
        Most ranks; 1 draws a single process. Ranks have different numbers of samples, unless groups forbid it.
    derivatives, statistics : bool
        Ask for the vjp and the jvp; with cotangents of the returned statistics.
    inference : bool
        Normalize by the running statistics.
    half_precision : bool
        Whether x may be of 16 bits.
    plain : bool
        Only well-conditioned values.
    lean : bool
        One shape and dtype, that of `examples.example`'s first rank, for a subject that compiles each anew.
    dtype : dtype, optional
        Instead of a drawn one.
    **fixed
        Fields of the configuration.
    """
    scope = subject.scope
    for name, value in fixed.items():
        if value not in scope.options.get(name, (value,)):
            raise NotSupported(f"it has no {name}={value!r}")
    if channel_masks and True not in scope.options.get("mask.channels", (True,)):
        raise NotSupported("one mask of it serves all channels")
    if inference and "inference" not in scope:
        raise NotSupported("it has no inference")
    # Features that a check varies beside its subject matter are left out where the subject lacks them; the clauses
    # about such a feature itself are not attempted at all.
    ghost, renorm, mask = (
        wanted and name in scope for wanted, name in ((ghost, "ghost"), (renorm, "renorm"), (mask, "mask"))
    )
    ranks = min(ranks, scope.world)
    lean = lean and subject.examples < 10
    dtype = np.dtype("float32") if lean else dtype
    dtype = draw(dtypes(subject, half_precision=half_precision), label="dtype") if dtype is None else dtype
    usual = [n for n in ((2,) if lean else (2, 1, 3)) if n >= scope.min_count] or [scope.min_count]
    size = draw(st.sampled_from(usual), label="virtual_batch_size") if ghost else None
    world = draw(st.integers(min(2, ranks), ranks), label="ranks") if ranks > 1 else 1
    shape, axis = (SHAPE, 1) if lean else draw(shapes(subject, multiple=size or 1), label="shape")
    config = draw(
        configs(axis, scope=subject.scope, ghost=size, renorm=renorm, running=running, **fixed), label="config"
    )
    channels = shape[axis]
    seed = draw(st.integers(0, 2**16), label="seed")
    rng = np.random.default_rng(seed)
    inputs = []
    for rank in range(world):
        own = shape
        if rank and not ghost and subject.examples >= 10:
            none = "samples" in scope.nonempty
            own = (draw(st.integers(int(none), 6), label=f"N of rank {rank}"), *shape[1:])
        x = draw(arrays(own, dtype, axis=axis, plain=plain), label="x")
        dy, xdot = (rng.standard_normal(own).astype(dtype) if derivatives else None for _ in range(2))
        own_groups = own[0] // size if size else 1
        drawn = masks(own, axis, channels=channel_masks, groups=own_groups, least=scope.min_count) if mask else None
        inputs.append(RankInputs(x, dy, None if drawn is None else draw(drawn, label="mask"), xdot))
    kept = "float64" if dtype == np.float64 else "float32"
    parameters = dtype_named(choose_dtype(dtype.name, scope.parameter_dtypes))
    gamma, beta, gamma_dot, beta_dot = rng.standard_normal((4, channels)).astype(parameters)
    groups = shape[0] // size if size else 1
    cotangents = [tuple(rng.standard_normal((world, groups, channels)).astype(kept)) for _ in range(2)]
    state = (
        states(config, channels, dtype, seed, fresh=draw(st.booleans(), label="fresh"))
        if running or renorm or inference
        else None
    )
    return Case(
        config=config,
        ranks=tuple(inputs),
        gamma=gamma if config.scale else None,
        beta=beta if config.center else None,
        gamma_dot=gamma_dot if derivatives and config.scale else None,
        beta_dot=beta_dot if derivatives and config.center else None,
        dmean=cotangents[0] if statistics else None,
        dvar=cotangents[1] if statistics else None,
        state=state,
        mode="inference" if inference else "batch",
        update=running or renorm,
    )
