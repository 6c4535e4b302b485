"""Cases that the specification has refused, clause by clause, and the clause that refuses a given one.

Each differs in one thing from a good case, `good_case`, which is inside the scope of the subject.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case, RankInputs, dtype_named
from bnspec_conformance.cases.inputs.sizes import plain_config
from bnspec_conformance.cases.limits import FLOATS
from bnspec_conformance.cases.scope import Scope

__all__ = ["bad_cases", "good_case", "refused_by"]

_SAMPLES, _CHANNELS, _SPATIAL = 4, 3, 2


def good_case(scope: Scope, *, size: int | None = None) -> Case:
    """Return a small case inside a scope, with a running state where it has one, in groups of `size` samples."""
    ndim = min(scope.ndims)
    shape = (_SAMPLES, _CHANNELS, *[_SPATIAL] * (ndim - 2))
    dtype = dtype_named(next((name for name in ("float32", "float64") if name in scope.dtypes), scope.dtypes[0]))
    kept = np.dtype("float64" if dtype == np.float64 else "float32")
    x = (np.arange(np.prod(shape)) ** 2 % 13).reshape(shape).astype(dtype)
    config = plain_config(scope, 1, size)
    state: dict[str, Any] = {"mean": np.arange(_CHANNELS).astype(kept), "var": (1 + np.arange(_CHANNELS)).astype(kept)}
    if config.averaging != "exponential":
        state["count"] = np.full(_CHANNELS, 3, np.int64)
    gamma, beta = np.asarray([0.5, 1.0, 2.0]).astype(kept), np.asarray([0.0, 1.0, -1.0]).astype(kept)
    case = Case(
        config=config,
        ranks=(RankInputs(x),),
        gamma=gamma if config.scale else None,
        beta=beta if config.center else None,
        state=state,
        mode="batch" if "core" in scope else "inference",
    )
    return scope.fit(scope.arrange(case))


def bad_cases(scope: Scope, clause: str) -> list[tuple[str, Case]]:
    """Return what a clause has refused, as far as a subject of this scope can be given it: in words, and as a case."""
    return list(_BAD[clause](scope))


def refused_by(case: Case) -> str | None:
    """Return the clause that has a case refused for its shapes, dtypes or values, or None."""
    for rank in case.ranks:
        if rank.x.ndim < 2:
            return "BN-SHAPE-1"
        if not -rank.x.ndim <= case.config.axis < rank.x.ndim:
            return "BN-SHAPE-2"
        if rank.x.dtype.name not in FLOATS:
            return "BN-SHAPE-5"
    vectors = {"gamma": case.gamma, "beta": case.beta, **(case.state or {})}
    if any(v is not None and v.shape != (case.channels,) for v in vectors.values()):
        return "BN-SHAPE-6"
    state = case.state or {}
    if any(name != "count" and v.dtype.itemsize < 4 for name, v in state.items()):
        return "BN-PREC-1"
    if any(name in ("var", "stddev", "renorm_stddev", "count") and bool(np.any(v < 0)) for name, v in state.items()):
        return "BN-RUN-14"
    size = case.config.virtual_batch_size
    if size is not None and case.mode == "batch":
        if case.config.axis % case.ranks[0].x.ndim == 0 or any(r.x.shape[0] % size for r in case.ranks):
            return "BN-GRP-3"
        if len({r.x.shape[0] for r in case.ranks}) > 1:
            return "BN-SYNC-9"
    return (
        "BN-MASK-7"
        if any(r.mask is not None and not _fits(r.mask, r.x, case.config.axis) for r in case.ranks)
        else None
    )


def _fits(mask: Array, x: Array, axis: int) -> bool:
    """Return whether a mask is boolean and broadcasts against x, or against x without its channel axis."""
    shape = [n for a, n in enumerate(x.shape) if mask.ndim == x.ndim or a != axis % x.ndim]
    fits = len(shape) == mask.ndim and all(m in (1, n) for m, n in zip(mask.shape, shape, strict=True))
    return fits and mask.dtype == np.bool_


def _with_x(case: Case, x: Array, **fields: Any) -> Case:
    config = dataclasses.replace(case.config, **fields)
    return dataclasses.replace(case, ranks=(RankInputs(x),), config=config)


def _ranks(scope: Scope) -> Iterator[tuple[str, Case]]:
    case = good_case(scope)
    yield "x of rank 1", _with_x(case, case.gamma if case.gamma is not None else np.ones(3, "float32"), axis=0)
    yield "x of rank 0", _with_x(case, np.asarray(1, "float32"), axis=0)


def _axes(scope: Scope) -> Iterator[tuple[str, Case]]:
    if scope.axes == "any":
        case = good_case(scope)
        ndim = case.ranks[0].x.ndim
        for axis in (ndim, -ndim - 1, 7):
            yield f"axis {axis} of x of rank {ndim}", _with_x(case, case.ranks[0].x, axis=axis)


def _dtypes(scope: Scope) -> Iterator[tuple[str, Case]]:
    case = good_case(scope)
    for name in ("int32", "bool"):
        yield f"x of {name}", _with_x(case, case.ranks[0].x.astype(name))


def _vectors(scope: Scope) -> Iterator[tuple[str, Case]]:
    case = good_case(scope)
    odd: dict[str, Any]
    for shape in ((1,), (_CHANNELS + 1,), (1, _CHANNELS)):
        for name in ("gamma", "beta"):
            own = getattr(case, name)
            if own is not None:
                odd = {name: np.ones(shape, own.dtype)}
                yield f"{name} of shape {shape}", dataclasses.replace(case, **odd)
        for name, held in (case.state or {}).items() if case.state and _is_used(scope) else ():
            odd = {**(case.state or {}), name: np.ones(shape, held.dtype)}
            yield f"state.{name} of shape {shape}", dataclasses.replace(case, state=odd)
    if case.state and "running" in scope and "cumulative" in scope.options.get("averaging", ("cumulative",)):
        config = dataclasses.replace(case.config, averaging="cumulative")
        extents: tuple[tuple[int, ...], ...] = ((), (1,), (_CHANNELS + 1,))
        for own_shape in extents:  # frameworks have one counter for all channels
            odd = {**case.state, "count": np.ones(own_shape, np.int64)}
            yield f"state.count of shape {own_shape}", dataclasses.replace(case, state=odd, config=config)


def _groups(scope: Scope) -> Iterator[tuple[str, Case]]:
    if "ghost" not in scope or "virtual_batch_size" in scope.options:
        return
    case = good_case(scope, size=2)
    for size in (3, 8):
        bad = dataclasses.replace(case, config=dataclasses.replace(case.config, virtual_batch_size=size))
        yield f"groups of {size} samples of {_SAMPLES}", bad
    if scope.axes == "any":
        x = np.ascontiguousarray(np.moveaxis(case.ranks[0].x, case.config.axis, 0))[:, :4]
        yield "groups where axis 0 holds the channels", _with_x(case, x, axis=0)


def _masks(scope: Scope) -> Iterator[tuple[str, Case]]:
    if "mask" not in scope:
        return
    case = good_case(scope)
    x, axis = case.ranks[0].x, case.config.axis % case.ranks[0].x.ndim
    right = np.ones([1 if a == axis else n for a, n in enumerate(x.shape)], bool)
    for what, mask in (
        ("with another channel extent", np.repeat(right, _CHANNELS - 1, axis=axis)),
        ("of fewer samples", right[:-1]),
        ("of another rank", right[..., None]),
        ("of float32", right.astype("float32")),
        ("of int32", right.astype("int32")),
    ):
        yield f"a mask {what}", dataclasses.replace(case, ranks=(RankInputs(x, mask=mask),))


def _below_zero(scope: Scope) -> Iterator[tuple[str, Case]]:
    case = good_case(scope)
    for name in ("var", "count") if case.state and _is_used(scope) else ():
        if name in (case.state or {}):
            odd = {**(case.state or {}), name: -np.ones_like((case.state or {})[name])}
            yield f"state.{name} below 0", dataclasses.replace(case, state=odd)
            if name == "var" and "inference" in scope and case.mode == "batch":
                yield "state.var below 0 in inference", dataclasses.replace(case, state=odd, mode="inference")


def _narrow_states(scope: Scope) -> Iterator[tuple[str, Case]]:
    case = good_case(scope)
    narrow = next((name for name in ("float16", "bfloat16") if name in scope.dtypes), None)
    for name in ("mean", "var") if narrow and case.state and _is_used(scope) else ():
        odd = {**(case.state or {}), name: (case.state or {})[name].astype(dtype_named(str(narrow)))}
        yield f"state.{name} of {narrow}", dataclasses.replace(case, state=odd)


def _uneven_groups(scope: Scope) -> Iterator[tuple[str, Case]]:
    ghost = "ghost" in scope and "virtual_batch_size" not in scope.options
    if "sync" in scope and ghost and scope.world > 1 and scope.ragged:
        case = good_case(scope, size=2)
        x = case.ranks[0].x
        pair = (RankInputs(x), RankInputs(np.concatenate([x, x[:2]])))
        yield "ranks with 2 and 3 groups", dataclasses.replace(case, ranks=pair)


def _is_used(scope: Scope) -> bool:
    """Return whether the state of the good case reaches a result: it is updated, or normalizes."""
    return "running" in scope or "core" not in scope


_BAD: Mapping[str, Callable[[Scope], Iterator[tuple[str, Case]]]] = {
    "BN-SHAPE-1": _ranks,
    "BN-SHAPE-2": _axes,
    "BN-SHAPE-5": _dtypes,
    "BN-SHAPE-6": _vectors,
    "BN-GRP-3": _groups,
    "BN-RUN-14": _below_zero,
    "BN-MASK-7": _masks,
    "BN-SYNC-9": _uneven_groups,
    "BN-PREC-1": _narrow_states,
}
