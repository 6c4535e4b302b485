"""Formula of y: the statistics and the variance that it uses, and the place of epsilon."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product

from bnspec_conformance.cases.case import Array
from bnspec_conformance.probe.answers import Unobservable
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Declared, Finding, Guess, Reading, read
from bnspec_conformance.probe.predict import EPSILON_PLACES, SENSES, ProbeState, blend, moments, normalized

__all__ = ["effective", "inference_guesses", "normalization", "scaled"]

_SOURCE, _VARIANCE, _PLACE = "training normalizes by", "variance that normalizes", "epsilon in training"
#: The state of a call whose y is looked at, per channel; far from the statistics of the batch.
_STATE = (ProbeState(Fraction(3), Fraction(5), 2), ProbeState(Fraction(-2), Fraction(7), 2))


def normalization(ask: Asker) -> Iterator[Finding]:
    """Measure everything that y shows of one batch, and of inference."""
    ask.group = "normalization"
    yield ask.judge(_SOURCE, Declared(("the batch",), "BN-NORM-1"), _training, _SOURCE)
    yield ask.judge(_VARIANCE, Declared(("population",), "BN-NORM-1"), _training, _VARIANCE)
    yield ask.judge(_PLACE, Declared(("inside the root",), "BN-NORM-1"), _training, _PLACE)
    yield ask.judge("epsilon in inference", Declared(("inside the root",), "BN-INF-1"), _inference)
    yield ask.judge("small epsilon", Declared(("used as given",), "BN-NORM-1"), _smallest)


def scaled(epsilon: float) -> tuple[list[float], list[float]]:
    """0, 0, 0, 2 so that its variance 3/4 is three times epsilon, and a sixteenth of that: less than epsilon."""
    scale = 2.0 ** round(math.log2(epsilon / 0.25) / 2)
    return [0.0, 0.0, 0.0, 2 * scale], [0.0, scale / 2, 0.0, 0.0]


def inference_guesses(
    columns: Sequence[Sequence[float]], states: Sequence[ProbeState], decay: float, epsilon: float
) -> Iterator[Guess]:
    """y by running statistics: where epsilon goes, and whether they are divided by 1 - decay^count first."""
    counts = [s.seen for s in states]
    ways = ["as they are"] + (["debiased"] if all(counts) and 0 < decay < 1 else [])
    for use, (place, deviation) in product(ways, EPSILON_PLACES.items()):
        y = []
        for column, state in zip(columns, states, strict=True):
            share = 1 - Fraction(decay) ** (state.seen or 0) if use == "debiased" else Fraction(1)
            y.append(normalized(column, state.mean / share, deviation(state.var / share, Fraction(epsilon))))
        yield Guess({"running statistics are used": use, "epsilon in inference": place}, {"y": y})


def effective(column: Sequence[float], y: Array) -> tuple[float, float]:
    """Return the mean and the standard deviation that make y of a column of two different values."""
    low, high = min(column), max(column)
    at_low, at_high = float(y[list(column).index(low)]), float(y[list(column).index(high)])
    if not (math.isfinite(at_low) and math.isfinite(at_high)) or at_low == at_high:
        return math.nan, math.nan
    deviation = (high - low) / (at_high - at_low)
    return low - at_low * deviation, deviation


def _training(ask: Asker, about: str) -> Reading:
    state = _STATE if "running" in ask.subject.scope.profiles else None
    epsilon = ask.config(ndim=ask.ndim, dtype=ask.dtype).epsilon
    columns = scaled(epsilon)
    case = ask.case(columns, state=state)
    decay, eps = Fraction(case.config.decay), Fraction(epsilon)
    guesses = []
    parts = [moments(c) for c in columns]
    used: list[tuple[str, str, list[tuple[Fraction, Fraction]]]] = []
    for name, correction in (("population", 0), ("sample", 1)):
        used.append(("the batch", name, [(p.mean, p.var(correction)) for p in parts]))
        for weight in (w(decay) for w in SENSES.values()) if state is not None else ():
            after = [
                (blend(s.mean, p.mean, weight), blend(s.var, p.var(correction), weight))
                for s, p in zip(_STATE, parts, strict=True)
            ]
            used.append(("the updated running statistics", "the running one", after))
    if state is not None:
        used.append(("the old running statistics", "the running one", [(s.mean, s.var) for s in _STATE]))
    for (source, variance, statistics), (place, deviation) in product(used, EPSILON_PLACES.items()):
        y = [normalized(c, m, deviation(v, eps)) for c, (m, v) in zip(columns, statistics, strict=True)]
        guesses.append(Guess({_SOURCE: source, _VARIANCE: variance, _PLACE: place}, {"y": y}))
    return read(guesses, {"y": ask.output(case)}, about)


def _inference(ask: Asker) -> Reading:
    epsilon = ask.config(ndim=ask.ndim, dtype=ask.dtype).epsilon
    columns = scaled(epsilon)
    # Under "debiased" with decay 3/4 and one update these are four times as large.
    states = [ProbeState(p.mean / 4, p.var() / 4, 1) for p in map(moments, columns)]
    case = ask.case(columns, state=states, mode="inference")
    guesses = inference_guesses(columns, states, case.config.decay, epsilon)
    return read(guesses, {"y": ask.output(case)}, "epsilon in inference")


def _smallest(ask: Asker) -> Reading:
    """Give an epsilon of 1e-9 with a variance of that size, and see which one comes out."""
    epsilon = 2.0**-30
    ask.allows(epsilon=epsilon)
    if ask.dtype not in ("float32", "float64"):
        raise Unobservable(f"a variance of {epsilon:.1g} needs float32 x")
    column = [0.0, 0.0, 0.0, 2.0**-14]
    case = ask.case((column, column), epsilon=epsilon)
    y = ask.output(case)
    guess = Guess({"small epsilon": "used as given"}, {"y": [_by(column, epsilon)] * 2})
    reading = read([guess], {"y": y}, "small epsilon")
    if reading.fits:
        return reading
    _, deviation = effective(column, y.values[0])
    return Reading((), f"1e-9 acts as {deviation**2 - float(moments(column).var()):.3g}")


def _by(column: Sequence[float], epsilon: float) -> list[float]:
    part = moments(column)
    return normalized(column, part.mean, math.sqrt(part.var() + Fraction(epsilon)))
