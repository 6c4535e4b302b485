"""Levels of clauses, cases and failures: A ordinary, AA at an edge, AAA hard (SPEC.md, "Profiles and levels")."""

from collections.abc import Iterable, Iterator

import numpy as np

from bnspec._clauses import LEVELS, clauses
from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.cases.counts import counts_of
from bnspec_conformance.cases.inputs.families import HARD_FAMILY
from bnspec_conformance.cases.inputs.memory import arrays_of
from bnspec_conformance.cases.layout import layouts

__all__ = ["LEVELS", "highest", "level_of_case", "level_of_clause", "lowest", "within"]

#: A mean so many standard deviations from 0 costs digits.
_FAR = 100.0

#: One element so many times as far from the median as half of them are.
_OUTLYING = 2.0**12

#: Squares of what lies outside come near the ends of float32.
_SMALL, _LARGE = 2.0**-48, 2.0**48

#: Elements per channel above which sums and counters are put to the test.
_MANY = 2**16

#: Elements that are looked at together: a case may have 100 000 channels, or a first one that settles it.
_AT_ONCE = 2**16


def level_of_clause(clause: str) -> str:
    """Return the level that SPEC.md gives a clause; A for one that it does not have, as in the report of another."""
    known = clauses().get(clause)
    return LEVELS[0] if known is None else known.level


def level_of_case(case: Case | None) -> str:
    """Return the level of a case; A where there is none, so that the clause alone decides.

    Examples
    --------
    >>> import numpy as np
    >>> from bnspec import BatchNormConfig
    >>> from bnspec_conformance import RankInputs
    >>> config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    >>> rows = [[[0.0], [1.0], [3.0]], [[1.0]], [[1e6], [1e6 + 1]]]
    >>> [level_of_case(Case(config=config, ranks=(RankInputs(np.asarray(v)),))) for v in rows]
    ['A', 'AA', 'AAA']
    """
    if case is None:
        return "A"
    with np.errstate(all="ignore"):
        return "AAA" if _is_hard(case) else "AA" if _is_edge(case) else "A"


def highest(levels: Iterable[str]) -> str:
    """Return the highest of some levels, A if there is none."""
    return max(levels, key=LEVELS.index, default=LEVELS[0])


def lowest(levels: Iterable[str]) -> str:
    """Return the lowest of some levels, AAA if there is none."""
    return min(levels, key=LEVELS.index, default=LEVELS[-1])


def within(level: str, limit: str) -> bool:
    """Return whether a level is not above a limit."""
    return LEVELS.index(level) <= LEVELS.index(limit)


def _is_hard(case: Case) -> bool:
    if case.note.startswith(HARD_FAMILY) or any(_is_extreme(array) for array in _of_shape(case)):
        return True
    return _some_lose_digits(*_by_channel(case))


def _is_extreme(array: Array) -> bool:
    """Return whether a value's square comes near the ends of float32, or is subnormal in its own dtype."""
    size = np.abs(as_float64(array))
    size = size[np.isfinite(size) & (size > 0)]
    normal = {"float64": 2.0**-1022, "float16": 2.0**-14}.get(array.dtype.name, 2.0**-126)
    return bool(np.any((size < max(normal, _SMALL)) | (size > _LARGE)))


def _some_lose_digits(values: Array, counted: Array) -> bool:
    """Return whether the finite values that count in a row, a channel of a group, are hard to sum or to square."""
    used = counted & np.isfinite(values)
    step = max(1, _AT_ONCE // max(1, values.shape[1]))
    for first in range(0, len(values), step):
        rows, kept = values[first : first + step], used[first : first + step]
        full = kept.all(axis=1)
        if _lose_digits(rows[full]).any():
            return True
        if any(_lose_digits(row[keep][None]).any() for row, keep in zip(rows[~full], kept[~full])):
            return True
    return False


def _lose_digits(values: Array) -> Array:
    """Return for each row whether its values are hard to sum or to square."""
    if values.size == 0 or values.shape[1] < 2:
        return np.zeros(len(values), bool)
    off = np.abs(values - np.median(values, axis=1, keepdims=True))
    half = np.median(off, axis=1)
    far = np.abs(np.mean(values, axis=1)) >= _FAR * np.std(values, axis=1)
    outlying = (half > 0) & (np.max(off, axis=1) >= _OUTLYING * half)
    constant = (values == values[:, :1]).all(axis=1)
    return np.asarray(np.where(constant, values[:, 0] != 0, far | outlying))


def _is_edge(case: Case) -> bool:
    try:
        counts = counts_of(case)
        layouts(case)
    except ValueError:  # it is to be refused
        return True
    few = case.channels == 0 or case.groups == 0 or bool({0, 1} & set(counts)) or max(counts, default=0) > _MANY
    if few or any(_holds_nothing(rank.x, rank.mask) for rank in case.ranks):
        return True
    arrays = list(_arrays(case))
    unusual = any(not a.flags.c_contiguous or not a.dtype.isnative for a in arrays)
    narrow = any(rank.x.dtype.itemsize == 2 for rank in case.ranks)
    return unusual or narrow or not all(np.isfinite(as_float64(a)).all() for a in arrays)


def _holds_nothing(x: Array, mask: Array | None) -> bool:
    return x.size == 0 or (mask is not None and not mask.any())


def _by_channel(case: Case) -> tuple[Array, Array]:
    """Return all ranks' values with a row for each channel of each group, and which count; none if to be refused."""
    try:
        folds = layouts(case)
    except ValueError:
        return np.zeros((0, 0)), np.zeros((0, 0), bool)
    values = np.concatenate([f.fold(as_float64(r.x)) for f, r in zip(folds, case.ranks)], axis=2)
    whole = np.ones((1,) * case.ranks[0].x.ndim, bool)
    counted = [f.fold(whole if r.mask is None else r.mask) for f, r in zip(folds, case.ranks)]
    groups, channels, n = values.shape
    shape = groups * channels, n
    return values.reshape(shape), np.concatenate(counted, axis=2).reshape(shape)


def _of_shape(case: Case) -> Iterator[Array]:
    """Yield the arrays of x's shape."""
    held = arrays_of(case)
    yield from (array for role in ("x", "dy", "xdot") for array in held[role])


def _arrays(case: Case) -> Iterator[Array]:
    """Yield every array of numbers of a case."""
    yield from (array for role, arrays in arrays_of(case).items() if role != "mask" for array in arrays)
