"""Prediction of each hypothesis, in rational arithmetic; only square roots are rounded, once, in float64."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from bnspec_conformance.probe.findings import Guess

__all__ = [
    "EPSILON_PLACES",
    "ExactMoments",
    "SENSES",
    "ProbeState",
    "blend",
    "deviations",
    "merged",
    "moments",
    "normalized",
    "update_guesses",
]


class ExactMoments(NamedTuple):
    """Count, mean and sum of squared deviations of some numbers."""

    n: int
    mean: Fraction
    m2: Fraction

    def var(self, correction: int = 0) -> Fraction:
        """m2 over n - correction; 0 where that is 0."""
        return self.m2 / (self.n - correction) if self.n > correction else Fraction(0)


class ProbeState(NamedTuple):
    """The running state of one channel; seen is its counter, None where it has none."""

    mean: Fraction
    var: Fraction
    seen: int | None = None


#: The values that the configured decay may multiply, each with the weight of the new batch that follows.
SENSES: Mapping[str, Callable[[Fraction], Fraction]] = {
    "old value": lambda decay: 1 - decay,
    "new value": lambda decay: decay,
}

#: Where epsilon goes, and the standard deviation that follows from a variance.
EPSILON_PLACES: Mapping[str, Callable[[Fraction, Fraction], float]] = {
    "inside the root": lambda var, eps: math.sqrt(var + eps),
    "outside the root": lambda var, eps: math.sqrt(var) + float(eps),
    "max(var, epsilon)": lambda var, eps: math.sqrt(max(var, eps)),
    "added twice, inside": lambda var, eps: math.sqrt(var + 2 * eps),
    "added twice, inside and outside": lambda var, eps: math.sqrt(var + eps) + float(eps),
    "outside, as its root": lambda var, eps: math.sqrt(var) + math.sqrt(eps),
    "left out": lambda var, eps: math.sqrt(var),
}


def moments(values: Sequence[float | Fraction]) -> ExactMoments:
    """ExactMoments of the numbers; all 0 of none."""
    exact = [Fraction(v) for v in values]
    if not exact:
        return ExactMoments(0, Fraction(0), Fraction(0))
    mean = sum(exact, Fraction(0)) / len(exact)
    return ExactMoments(len(exact), mean, sum(((v - mean) ** 2 for v in exact), Fraction(0)))


def merged(parts: Sequence[ExactMoments]) -> ExactMoments:
    """ExactMoments of all numbers of the parts."""
    count = sum(p.n for p in parts)
    if count == 0:
        return ExactMoments(0, Fraction(0), Fraction(0))
    mean = sum((p.n * p.mean for p in parts), Fraction(0)) / count
    m2 = sum((p.m2 + p.n * (p.mean - mean) ** 2 for p in parts), Fraction(0))
    return ExactMoments(count, mean, m2)


def blend(old: Fraction, new: Fraction, weight: Fraction) -> Fraction:
    """Return the old value moved towards the new one."""
    return old + weight * (new - old)


def deviations(epsilon: float) -> Iterator[Callable[[ExactMoments], float]]:
    """Yield all ways to a standard deviation: either variance, epsilon in any place; the specification's first."""
    eps = Fraction(epsilon)
    for correction, place in product((0, 1), EPSILON_PLACES.values()):
        yield lambda part, correction=correction, place=place: place(part.var(correction), eps)  # type: ignore[misc]


def normalized(values: Sequence[float], mean: Fraction, deviation: float) -> list[float]:
    """Return the numbers less the mean over the deviation; not finite where that is 0."""
    if deviation == 0:
        return [math.nan if Fraction(v) == mean else math.copysign(math.inf, Fraction(v) - mean) for v in values]
    return [float(Fraction(v) - mean) / deviation for v in values]


def update_guesses(columns: Sequence[Sequence[float]], old: ProbeState, decay: float) -> Iterator[Guess]:
    """Yield one update by the whole batch: how the average weighs, what decay multiplies, and the correction."""
    parts = [moments(column) for column in columns]
    n, t = parts[0].n, old.seen
    weights: list[tuple[str, str, Fraction]] = [
        ("exponential", sense, weight(Fraction(decay))) for sense, weight in SENSES.items()
    ]
    weights.append(("replaced by the batch", "neither", Fraction(1)))
    if t is not None:
        weights += [("cumulative", "neither", Fraction(1, t + 1)), ("pooled", "neither", Fraction(n, t + n))]
    for (law, sense, weight), correction in product(weights, (0, 1)):
        var = [blend(old.var, p.var(correction), weight) for p in parts]
        if law == "pooled" and t is not None:
            before = ExactMoments(t, old.mean, old.var * (t - correction))
            var = [merged([before, p]).var(correction) for p in parts]
        counted = None if t is None else t + (n if law == "pooled" else 1)
        names = {"averaging": law, "decay": sense, "correction": str(correction)}
        yield Guess(names, _state([blend(old.mean, p.mean, weight) for p in parts], var, counted))
    yield Guess(
        {"averaging": "unchanged", "decay": "neither", "correction": "neither"},
        _state([old.mean], [old.var], t),
    )


def _state(mean: Sequence[Fraction], var: Sequence[Fraction], count: int | None) -> dict[str, list[float]]:
    predicted = {"mean": [float(v) for v in mean], "var": [float(v) for v in var]}
    return predicted if count is None else predicted | {"count": [float(count)]}
