"""In which format a subject computes: measured by a mean its format cannot hold, and by sums beyond its range."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np

from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.probe.answers import Unobservable
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Declared, Finding, Guess, Observation, Reading, read
from bnspec_conformance.probe.groups.normalize import effective
from bnspec_conformance.probe.predict import ExactMoments, ProbeState, deviations, moments, normalized

__all__ = ["precision"]

#: Bits of the significand, the leading one included.
_BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
_EPSILON = 0.3125  # with a variance of 0 or 1 it makes no scale a power of 2, which would round nothing
_CENTRED, _AFFINE = "(x - mean)*scale", "x*scale + shift"


def precision(ask: Asker) -> Iterator[Finding]:
    """Measure centre, sums, variance, state and y for every dtype of x."""
    ask.group = "precision"
    for dtype in ask.subject.scope.dtypes:
        of = f" ({dtype} x)"
        yield ask.judge("centre" + of, _centre_ought(ask, dtype), _centre, dtype)
        if dtype in ("float16", "bfloat16"):
            told = Declared((f"wider than {dtype}",), "BN-PREC-3")
            yield ask.judge("centre in inference" + of, told, _centre, dtype, "inference")
        if dtype in ("float16", "float32"):
            yield ask.judge("sums" + of, _sums_ought(ask, dtype), _sums, dtype)
        if dtype in ("float32", "float64"):
            ought = Declared(("without cancellation",), "BN-MOM-7")
            yield ask.judge("variance" + of, ought, _variance, dtype)
            yield ask.judge("y evaluated" + of, _form_ought(ask, "BN-NORM-1"), _form, dtype, "batch")
            yield ask.judge("y in inference evaluated" + of, _form_ought(ask, "BN-INF-1"), _form, dtype, "inference")
        ought = Declared(("float64" if dtype == "float64" else "float32",), "BN-PREC-1")
        yield ask.judge("state" + of, ought, _state, dtype)
        yield ask.judge("y" + of, Declared((dtype,), "BN-SHAPE-3"), _output, dtype)


def _centre_ought(ask: Asker, dtype: str) -> Declared:
    """Declare the width of the mean: a pair is wider in any arithmetic, a single number as wide as the arithmetic."""
    wide = f"wider than {dtype}"
    if dtype in ("float16", "bfloat16"):
        return Declared((wide,), "BN-PREC-2")
    if ask.subject.bound == "strict" or (dtype == "float32" and ask.subject.arithmetic != "float32"):
        return Declared((wide,), "BN-MOM-2")
    return Declared((dtype, wide), "subject")


def _sums_ought(ask: Asker, dtype: str) -> Declared:
    wide = f"wider than {dtype}"
    if dtype == "float16":
        return Declared((wide,), "BN-PREC-2")
    return Declared((wide,) if ask.subject.arithmetic != "float32" else (dtype, wide), "subject")


def _form_ought(ask: Asker, clause: str) -> Declared:
    return Declared((_CENTRED,), clause) if ask.subject.bound == "strict" else Declared((_CENTRED, _AFFINE), "subject")


def _centre(ask: Asker, dtype: str, mode: str = "batch") -> Reading:
    """Normalize two neighbours of the format; their mean lies between them, where the format has no number."""
    step = 2.0**-5
    low = step * 2.0 ** (_BITS[dtype] - 1)
    column = [low, low + step, low, low + step]
    epsilon = 3 * float(moments(column).var())  # y is -1/2 and 1/2
    y = ask.output(_pair(ask, column, dtype, mode, epsilon)).values[0]
    _, deviation = effective(column, y)
    if math.isnan(deviation):
        return _same(dtype, y) or Reading((), f"y of two neighbours is {y[0]:.6g} and {y[1]:.6g}")
    off = 0.0 - float(y[0]) * deviation / step  # of the mean from low; the mean itself may be no number of float64
    near = abs(off - 0.5) < 0.05
    return Reading((f"wider than {dtype}" if near else dtype,), f"it lies {off:.3g} of the way between two neighbours")


def _pair(ask: Asker, column: list[float], dtype: str, mode: str, epsilon: float) -> Case:
    """Return a column and its negative; in inference by a state of the column's own mean and variance."""
    part = moments(column)
    state = None
    if mode == "inference":  # a quarter of which is what "debiased" keeps of one update
        share = 4 if ask.config(ndim=ask.ndim, dtype=dtype).averaging == "debiased" else 1
        state = [ProbeState(sign * part.mean / share, part.var() / share, 1) for sign in (1, -1)]
    return ask.case((column, [-v for v in column]), dtype=dtype, epsilon=epsilon, mode=mode, state=state)


def _sums(ask: Asker, dtype: str) -> Reading:
    """Numbers whose squares, and in float16 whose sum too, are beyond the format's range, while y is not."""
    top = 512.0 if dtype == "float16" else 2.0**71
    many = 2.0**15 if dtype == "float16" else 2.0**72
    columns = ([0.0, 0.0, 0.0, top], [many, many, 0.0, many])
    case = ask.case(columns, dtype=dtype)
    y = ask.output(case)
    reading = read(_by_moments(case.config.epsilon, columns, "sums", f"wider than {dtype}"), {"y": y}, "sums")
    if reading.fits:
        return reading
    lost = not np.all(np.isfinite(y.values)) or bool(np.any(np.max(np.abs(y.values), axis=1) == 0))
    return Reading((dtype,), "y is 0 or not finite") if lost else reading


def _by_moments(epsilon: float, columns: tuple[list[float], ...], about: str, name: str) -> Iterator[Guess]:
    for deviation in deviations(epsilon):
        parts = [moments(c) for c in columns]
        y = [normalized(c, p.mean, deviation(p)) for c, p in zip(columns, parts, strict=True)]
        yield Guess({about: name}, {"y": y})


def _variance(ask: Asker, dtype: str) -> Reading:
    """Return K - 1 and K + 1, K a power of 2, whose squares are rounded so that the variance of 1 is lost."""
    column = _spread(dtype)
    case = _pair(ask, column, dtype, "batch", _EPSILON)
    part = moments(column)
    ways = {"without cancellation": part, f"E[x^2] - E[x]^2 in {dtype}": ExactMoments(4, part.mean, Fraction(0))}
    guesses = [
        Guess({"variance": name}, {"difference of y": 2 / deviation(seen)})
        for (name, seen), deviation in product(ways.items(), deviations(case.config.epsilon))
        if deviation(seen)
    ]
    y = ask.output(case)
    return _same(dtype, y.values) or read(guesses, {"difference of y": _difference(y)}, "variance")


def _form(ask: Asker, dtype: str, mode: str) -> Reading:
    """Return whether y is exact where x is far from 0: x*scale has lost digits that remain after adding the shift."""
    column = _spread(dtype)
    case = _pair(ask, column, dtype, mode, _EPSILON)
    y = ask.output(case)
    part = moments(column)
    centred, affine = [], []
    for seen, deviation in product((part, ExactMoments(4, part.mean, Fraction(0))), deviations(case.config.epsilon)):
        if deviation(seen):
            values = normalized(column, part.mean, deviation(seen))
            centred.append(Guess({"form": _CENTRED}, {"y": [values, [-v for v in values]]}))
            affine.append(Guess({"form": _AFFINE}, {"difference": 2 / deviation(seen)}))
    exact = read(centred, {"y": y}, "form", coarse=False)
    if exact.fits:
        return exact
    return _same(dtype, y.values) or read(affine, {"difference": _difference(y)}, "form")


def _same(dtype: str, y: Array) -> Reading | None:
    """Numbers of x that differ cannot have one y, unless x has been rounded to one number."""
    one = bool(np.all(np.isfinite(y))) and bool(np.all(y == np.ravel(y)[0]))
    return Reading((f"x is narrower than {dtype}",), "numbers that differ have one y") if one else None


def _spread(dtype: str) -> list[float]:
    base = 2.0**13 if dtype == "float32" else 2.0**28
    return [base - 1, base + 1, base - 1, base + 1]


def _difference(y: Observation) -> Observation:
    """Between the two values of y, to 3 digits: what rounding of x*scale + shift leaves of it."""
    return Observation(y.values[0, 1] - y.values[0, 0], 2.0**-13)


def _state(ask: Asker, dtype: str) -> Reading:
    """Old means just above 1 that ever wider formats tell from 1, and a batch of ones."""
    ladder = {"float64": 40, "float32": 20, "float16": 8}
    if dtype != "float64":
        del ladder["float64"]
    old = [ProbeState(1 + Fraction(1, 2**bits), Fraction(1), 4) for bits in ladder.values()]
    case = ask.case(*[[[1.0] * 4] * len(old)], dtype=dtype, state=old)
    array = ask.state(case)["mean"]
    left = (as_float64(array) - 1) * [2.0**bits for bits in ladder.values()]
    held = [name for name, share in zip(ladder, left, strict=True) if 0.01 < share < 1.01]
    name = array.dtype.name
    widest = held[0] if held else "bfloat16"
    narrower = _BITS.get(name, 0) > _BITS[widest] and widest != next(iter(ladder))
    return Reading((widest,), f"in arrays of {name}") if narrower else Reading((name,))


def _output(ask: Asker, dtype: str) -> Reading:
    y = ask.run(ask.case(([0.0, 0.0, 0.0, 2.0], [1.0, 5.0, 1.0, 1.0]), dtype=dtype))[0].y
    if y is None:
        raise Unobservable("it returned no y")
    return Reading((y.dtype.name,))
