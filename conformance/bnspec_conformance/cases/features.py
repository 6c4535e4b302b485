"""Features that a case may have beyond a plain batch, and the same case without them.

Where an output is wrong, the case without a mask, say, tells whether the mask is to blame: the controls of
`bnspec_conformance.trials.violations.attribution`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.cases.concatenate import concatenated
from bnspec_conformance.cases.outputs import CHANNEL_MASK, EVERY, GHOST, GRADIENTS, MASK, SYNC, proving

__all__ = ["FEATURES", "Feature", "easy", "feature_of", "stripped"]


@dataclass(frozen=True)
class Feature:
    """Something that a case may have, which clauses of its own are about, and the same case without it.

    Attributes
    ----------
    name : str
    has : callable
        Whether a case has it.
    without : callable
        The case without it and otherwise alike, or several such cases, the first of which a subject takes.
    by_output : mapping of str to tuple of str
        The clauses that are broken where an output is wrong with it and right without it.
    """

    name: str
    has: Callable[[Case], bool]
    without: Callable[[Case], "Case | tuple[Case, ...]"]
    by_output: Mapping[str, tuple[str, ...]]


def _no_ghost(case: Case) -> Case:
    def one(values: tuple[Array, ...] | None) -> tuple[Array, ...] | None:  # a cotangent for each group
        if values is None:
            return None
        return tuple(v[:1] if len(v) else np.zeros((1, *v.shape[1:]), v.dtype) for v in values)

    config = dataclasses.replace(case.config, virtual_batch_size=None)
    return dataclasses.replace(case, config=config, dmean=one(case.dmean), dvar=one(case.dvar))


def _shared_mask(case: Case) -> Case:
    """Return the case with each rank's mask of its first channel for all channels."""

    def shared(mask: Array | None) -> Array | None:
        return None if mask is None else mask.take([0], axis=case.config.axis)

    return dataclasses.replace(case, ranks=tuple(dataclasses.replace(r, mask=shared(r.mask)) for r in case.ranks))


def _no_mask(case: Case) -> Case:
    return dataclasses.replace(case, ranks=tuple(dataclasses.replace(r, mask=None) for r in case.ranks))


def _no_renorm(case: Case) -> Case:
    state = None if case.state is None else {k: v for k, v in case.state.items() if k in ("mean", "var")}
    return dataclasses.replace(case, config=dataclasses.replace(case.config, renorm=None), state=state)


def _uneven(case: Case) -> bool:
    def full(rank: RankInputs) -> bool:
        return bool(rank.x.size) and rank.mask is None

    return len(case.ranks) > 1 and (
        len({r.x.shape for r in case.ranks}) > 1 or not all(full(rank) for rank in case.ranks)
    )


def _even(case: Case) -> Case:
    """Return every rank with the samples of the largest, moved so that ranks can be told apart, and no mask."""
    largest = max(case.ranks, key=lambda r: r.x.size)
    if not largest.x.size:
        largest = easy(dataclasses.replace(case, ranks=(largest,))).ranks[0]
        case = _no_ghost(case)
    ranks = [dataclasses.replace(largest, x=(largest.x + k).astype(largest.x.dtype)) for k in range(len(case.ranks))]
    return _no_mask(dataclasses.replace(case, ranks=tuple(ranks)))


def _with_parameters(case: Case) -> Case:
    config = dataclasses.replace(case.config, center=True, scale=True)
    ones = {"gamma": 1.0, "beta": 0.0}
    kept = np.float64 if case.ranks[0].x.dtype == np.float64 else np.float32
    given: dict[str, Any] = {k: np.full(case.channels, v, kept) for k, v in ones.items() if getattr(case, k) is None}
    return dataclasses.replace(case, config=config, **given)


def _wide(case: Case) -> Case:
    def cast(value: Array | None) -> Any:
        return None if value is None else value.astype(np.float32)

    ranks = tuple(RankInputs(cast(r.x), cast(r.dy), r.mask, cast(r.xdot)) for r in case.ranks)
    names = ("gamma", "beta", "gamma_dot", "beta_dot")
    return dataclasses.replace(case, ranks=ranks, **{n: cast(getattr(case, n)) for n in names})


def _has_axis(case: Case) -> bool:
    plain = case.config.virtual_batch_size is None and not any(r.mask is not None for r in case.ranks)
    return plain and len(case.ranks) == 1 and (case.ranks[0].x.ndim > 2 or case.config.axis != 1)


def _other_axes(case: Case) -> tuple[Case, ...]:
    """Return the same numbers with the channels last in two dimensions, or on another axis."""
    rank, axis = case.ranks[0], case.config.axis % case.ranks[0].x.ndim
    ndim = rank.x.ndim

    def moved(to: int, *, flat: bool = False) -> Case:
        def move(value: Array | None) -> Any:
            if value is None:
                return None
            there = np.ascontiguousarray(np.moveaxis(value, axis, to))
            return there.reshape(-1, there.shape[-1]) if flat else there

        inputs = RankInputs(move(rank.x), move(rank.dy), None, move(rank.xdot))
        config = dataclasses.replace(case.config, axis=1 if flat else to % ndim)
        return dataclasses.replace(case, ranks=(inputs,), config=config)

    flat = (moved(-1, flat=True),) if rank.x.size else ()
    return (*flat, *(moved(to) for to in (ndim - 1, 1) if to != axis))


def _zeros(values: tuple[Array, ...] | None) -> bool:
    return values is None or not any(np.any(v) for v in values)


_NAMED_SYNC = {**SYNC, **proving("mean var", "BN-SYNC-1")}

#: From the outside in: ranks are joined before anything else is left out.
FEATURES: tuple[Feature, ...] = (
    Feature("uneven", _uneven, _even, proving(EVERY, "BN-SYNC-3")),
    Feature("ranks", lambda c: len(c.ranks) > 1, lambda c: concatenated(c)[0], _NAMED_SYNC),
    Feature("channel mask", lambda c: c.counts_channels, _shared_mask, CHANNEL_MASK),
    Feature("mask", lambda c: any(r.mask is not None for r in c.ranks), _no_mask, MASK),
    Feature("ghost", lambda c: c.config.virtual_batch_size is not None, _no_ghost, GHOST),
    Feature(
        "renorm",
        lambda c: c.config.renorm is not None,
        _no_renorm,
        proving("y", "BN-RENORM-1") | proving("dx dgamma dbeta ydot", "BN-RENORM-2") | proving("state", "BN-RENORM-7"),
    ),
    Feature(
        "cotangents",
        lambda c: not (_zeros(c.dmean) and _zeros(c.dvar)),
        lambda c: dataclasses.replace(c, dmean=None, dvar=None),
        proving("dx", "BN-GRAD-6"),
    ),
    Feature(
        "debiased",
        lambda c: c.mode == "inference" and c.config.averaging == "debiased",
        lambda c: dataclasses.replace(
            c,
            config=dataclasses.replace(c.config, averaging="exponential"),
            state=None if c.state is None else {k: v for k, v in c.state.items() if k != "count"},
        ),
        proving(f"y {GRADIENTS} ydot", "BN-RUN-7"),
    ),
    Feature(
        "parameters",
        lambda c: not (c.config.center and c.config.scale),
        _with_parameters,
        proving(f"y {GRADIENTS} ydot", "BN-NORM-2"),
    ),
    Feature(
        "dtype",
        lambda c: c.ranks[0].x.dtype.itemsize == 2,
        _wide,
        proving("y mean var count state mean_dot var_dot", "BN-PREC-2") | proving(f"{GRADIENTS} ydot", "BN-PREC-3"),
    ),
    Feature("axis", _has_axis, _other_axes, proving(EVERY, "BN-SHAPE-2")),
)

_FEATURE_OF = {
    "BN-MASK": "mask", "BN-MASK-8": "channel mask", "BN-SYNC": "ranks",
    "BN-SYNC-3": "uneven", "BN-RENORM": "renorm", "BN-GRP-2": "ghost",
    "BN-RUN-8": "ghost", "BN-SHAPE-2": "axis", "BN-GRAD-6": "cotangents", "BN-RUN-7": "debiased",
    "BN-NORM-2": "parameters", "BN-PREC-2": "dtype", "BN-PREC-3": "dtype", "BN-INF-2": "ghost",
}  # fmt: skip


def feature_of(clause: str, case: Case) -> Feature | None:
    """Return the feature of a case that a clause is about, or None."""
    name = _FEATURE_OF.get(clause, _FEATURE_OF.get(clause.rsplit("-", 1)[0]))
    return next((f for f in FEATURES if f.name == name and f.has(case)), None)


def stripped(case: Case) -> Case:
    """Return the case without any of the features, but for where its channels are."""
    for feature in FEATURES[:-1]:
        if feature.has(case):
            simpler = feature.without(case)
            assert isinstance(simpler, Case)
            case = simpler
    return case


def easy(case: Case) -> Case:
    """Return a plain case of the same configuration with finite outputs far from 0, so that every error shows."""
    case, rng = stripped(case), np.random.default_rng(7)
    rank, channels = case.ranks[0], max(1, case.channels)
    axis = case.config.axis % rank.x.ndim
    shape = tuple(channels if a == axis else 6 if a == 0 else 3 for a in range(rank.x.ndim))
    kept = np.float64 if rank.x.dtype == np.float64 else np.float32

    def like(value: Array | None, offset: float) -> Any:
        return None if value is None else (rng.standard_normal(shape) + offset).astype(value.dtype)

    def vector(value: Array | None) -> Any:
        return None if value is None else (rng.random(channels) + 0.5).astype(value.dtype)

    state = None
    if case.state is not None:
        state = {k: np.full(channels, 3, v.dtype) if k == "count" else vector(v) for k, v in case.state.items()}
    return dataclasses.replace(
        case,
        ranks=(RankInputs(like(rank.x, 2.0), like(rank.dy, 0.5), None, like(rank.xdot, 0.5)),),
        gamma=vector(np.ones(1, kept)),
        beta=vector(np.ones(1, kept)),
        gamma_dot=vector(case.gamma_dot),
        beta_dot=vector(case.beta_dot),
        state=state,
    )
