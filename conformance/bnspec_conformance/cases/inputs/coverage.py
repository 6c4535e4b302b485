"""Kinds of input on which implementations go wrong: a search must have met them before "passed" means anything.

Every case that a subject runs is classified, and the counts go into the report. A run of the whole suite that never met
a kind inside the subject's scope is vacuous there.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.cases.counts import counts_of
from bnspec_conformance.cases.inputs.memory import thin
from bnspec_conformance.cases.scope import Scope

__all__ = ["KINDS", "covered", "uncovered"]


def _moments(case: Case) -> tuple[Array, Array, int]:
    rank = case.ranks[0]
    x = np.moveaxis(as_float64(thin(rank.x)), case.config.axis, -1)
    if not x.size:
        return np.zeros(0), np.zeros(0), 0
    x = x.reshape(-1, x.shape[-1])
    return x.mean(axis=0), x.std(axis=0), rank.x.size // rank.x.shape[case.config.axis]


def _constant(case: Case) -> bool:
    _, std, n = _moments(case)
    return n > 1 and bool(np.any(std == 0))


def _far(case: Case) -> bool:
    mean, std, n = _moments(case)
    return n > 1 and bool(np.any((std > 0) & (np.abs(mean) >= 100 * std)))


def _subnormal(case: Case) -> bool:
    x = thin(case.ranks[0].x)
    smallest = {"float64": 2.0**-1022, "float16": 2.0**-14}.get(x.dtype.name, 2.0**-126)
    values = np.abs(as_float64(x))
    return bool(np.any((values > 0) & (values < smallest)))


#: Each with the profile or dtype it depends on, "ragged" for ranks that may differ in shape, or "".
KINDS: Mapping[str, tuple[str, Callable[[Case], bool]]] = {
    "count 0": ("", lambda case: 0 in counts_of(case)),
    "count 1": ("", lambda case: 1 in counts_of(case)),
    "C = 0": ("", lambda case: case.channels == 0),
    "C = 1": ("", lambda case: case.channels == 1),
    "constant channel": ("", _constant),
    "subnormal": ("float32", _subnormal),
    "|mean| >= 100 std": ("", _far),
    "not finite": ("", lambda case: not all(np.isfinite(as_float64(thin(r.x))).all() for r in case.ranks)),
    "ragged ranks": ("ragged", lambda case: len({r.x.shape for r in case.ranks}) > 1),
    "a rank without samples": ("ragged", lambda case: any(r.x.size == 0 for r in case.ranks) and len(case.ranks) > 1),
    "all masked": ("mask", lambda case: any(r.mask is not None and not r.mask.any() for r in case.ranks)),
    "several groups": ("ghost", lambda case: case.groups > 1),
    "float16": ("float16", lambda case: case.ranks[0].x.dtype.name == "float16"),
    "bfloat16": ("bfloat16", lambda case: case.ranks[0].x.dtype.name == "bfloat16"),
    "float64": ("float64", lambda case: case.ranks[0].x.dtype.name == "float64"),
}


def covered(case: Case) -> list[str]:
    """Return the features that a case has."""
    with np.errstate(all="ignore"):
        return [name for name, (_, has) in KINDS.items() if has(case)]


def uncovered(counts: Iterable[Mapping[str, int]], scope: Scope) -> list[str]:
    """Return the features inside a scope that no case had.

    Parameters
    ----------
    counts : iterable of mapping of str to int
        How many cases had each feature, by check.
    scope : Scope
    """
    met = {name for each in counts for name, times in each.items() if times}
    inside = {*scope.profiles, *scope.dtypes, "", *(("ragged",) if "sync" in scope and scope.ragged else ())}
    return [name for name, (needs, _) in KINDS.items() if needs in inside and name not in met]
