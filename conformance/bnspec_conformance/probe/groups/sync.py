"""Several ranks: how their statistics are weighted, and what travels back in the gradients."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.probe.answers import Unobservable, observed, roundoff
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Declared, Finding, Guess, Observation, Reading, read
from bnspec_conformance.probe.predict import (
    SENSES,
    ExactMoments,
    ProbeState,
    blend,
    deviations,
    merged,
    moments,
    normalized,
)

__all__ = ["sync"]

_Columns = Sequence[Sequence[float]]


class _Samples(NamedTuple):
    """Samples that each rank holds."""

    ranks: tuple[_Columns, _Columns]  # the elements that count, channel by channel
    dy: tuple[_Columns, _Columns]
    padding: int = 0  # further samples of rank 1, which a mask leaves out


_UNEVEN = _Samples(ranks=(((0, 0, 0), (1, 5, 3)), ((2,), (9,))), dy=(((1, 3, 0), (2, 0, 1)), ((5,), (7,))))
_MASKED = _UNEVEN._replace(padding=2)
#: For what does not depend on the weights.
_EVEN = _Samples(ranks=(((0, 0), (1, 5)), ((2, 4), (9, 3))), dy=(((1, 3), (2, 0)), ((5, 0), (7, 1))))
_OLD = ProbeState(Fraction(8), Fraction(0), 4)
_ALONE = "none: each rank its own"
_WEIGHTINGS = ("count", "rank", _ALONE)


def sync(ask: Asker) -> Iterator[Finding]:
    """Measure everything that two ranks show."""
    ask.group = "sync"
    for suffix, value, declared in ask.choices("sync_weighting"):
        yield ask.judge("sync weighting" + suffix, declared, _weighting, sync_weighting=value)
    yield ask.judge("correction (sync)", ask.row_correction(sync=True), _correction)
    yield ask.judge("dgamma and dbeta of a rank", Declared(("its own sums",), "BN-SYNC-7"), _parameters)
    yield ask.judge("dx of a rank", Declared(("of all ranks' losses",), "BN-SYNC-6"), _input_gradient)


def _case(
    ask: Asker, layouts: Sequence[_Samples], *, gradients: bool = False, state: ProbeState | None = None, **wanted: Any
) -> tuple[_Samples, Case]:
    """Return the first of the layouts that the subject takes, as a case."""
    scope = ask.subject.scope
    if scope.world < 2 or "sync" not in scope.profiles:
        raise Unobservable("it joins no ranks")
    if gradients and "grad" not in scope.profiles:
        raise Unobservable("it has no gradients")
    reasons = []
    for layout in layouts:
        more = layout.padding
        ranks = (layout.ranks[0], [(*column, *(64.0,) * more) for column in layout.ranks[1]])
        dy = (layout.dy[0], [(*column, *(0.0,) * more) for column in layout.dy[1]])
        counts = [len(rank[0]) for rank in layout.ranks]
        mask = ([True] * counts[0], [True] * counts[1] + [False] * more) if more else None
        try:
            return layout, ask.case(*ranks, dy=dy if gradients else None, state=state, mask=mask, **wanted)
        except Unobservable as reason:
            reasons.append(str(reason))
    raise Unobservable(reasons[0])


def _joined(layout: _Samples, channel: int, weighting: str) -> list[ExactMoments]:
    """Return the statistics that each rank normalizes a channel by."""
    parts = [moments(rank[channel]) for rank in layout.ranks]
    if weighting == _ALONE:
        return parts
    if weighting == "count":
        return [merged(parts)] * 2
    mean = sum((p.mean for p in parts), Fraction(0)) / 2
    var = sum((p.var() + (p.mean - mean) ** 2 for p in parts), Fraction(0)) / 2
    count = sum(p.n for p in parts)
    return [ExactMoments(count, mean, var * count)] * 2


def _weighting(ask: Asker, **wanted: Any) -> Reading:
    layout, case = _case(ask, (_UNEVEN, _MASKED), **wanted)
    seen = {f"y{i}": _held(rank.y, layout, case, i) for i, rank in enumerate(ask.run(case))}
    guesses = []
    for weighting, deviation in product(_WEIGHTINGS, deviations(case.config.epsilon)):
        y: dict[str, list[list[float]]] = {"y0": [], "y1": []}
        for channel in range(2):
            for i, part in enumerate(_joined(layout, channel, weighting)):
                y[f"y{i}"].append(normalized(layout.ranks[i][channel], part.mean, deviation(part)))
        guesses.append(Guess({"sync weighting": weighting}, y))
    return read(guesses, seen, "sync weighting")


def _correction(ask: Asker) -> Reading:
    layout, case = _case(ask, (_UNEVEN, _MASKED, _EVEN), state=_OLD, averaging="exponential")
    guesses = []
    decay = Fraction(case.config.decay)
    for weighting, sense, correction in product(("count", "rank"), SENSES.values(), (0, 1)):
        parts = [_joined(layout, channel, weighting)[0] for channel in range(2)]
        state = {
            "mean": [float(blend(_OLD.mean, p.mean, sense(decay))) for p in parts],
            "var": [float(blend(_OLD.var, p.var(correction), sense(decay))) for p in parts],
        }
        guesses.append(Guess({"correction": str(correction)}, state))
    return read(guesses, observed(ask.state(case)), "correction")


def _parameters(ask: Asker) -> Reading:
    layout, case = _case(ask, (_UNEVEN, _MASKED, _EVEN), gradients=True)
    seen = {}
    for i, rank in enumerate(ask.run(case)):
        for name in ("dgamma", "dbeta"):
            array: Array | None = getattr(rank, name)
            if array is not None:
                seen[f"{name}{i}"] = Observation(as_float64(array), roundoff(array))
    if not seen:
        raise Unobservable("it returned no gradients of gamma and beta")
    guesses = []
    for weighting, way in product(_WEIGHTINGS, ("its own sums", "all ranks' sums", "the ranks' mean")):
        predicted: dict[str, list[float]] = {f"{n}{i}": [] for n in ("dgamma", "dbeta") for i in range(2)}
        for channel in range(2):
            each = _sums(layout, channel, weighting, case.config.epsilon)
            total = np.sum(each, axis=0)
            for i in range(2):
                part = each[i] if way == "its own sums" else total if way == "all ranks' sums" else total / 2
                predicted[f"dbeta{i}"].append(float(part[0]))
                predicted[f"dgamma{i}"].append(float(part[1]))
        guesses.append(Guess({"sums": way}, predicted))
    return read(guesses, seen, "sums")


def _input_gradient(ask: Asker) -> Reading:
    layout, case = _case(ask, (_UNEVEN, _MASKED, _EVEN), gradients=True)
    epsilon = case.config.epsilon
    seen = {f"dx{i}": _held(rank.dx, layout, case, i) for i, rank in enumerate(ask.run(case))}
    guesses = []
    losses = ("of all ranks' losses", "of the ranks' mean loss", "of its own loss")
    for weighting, loss in product(_WEIGHTINGS, losses):
        if weighting == _ALONE and loss != "of its own loss":
            continue
        predicted: dict[str, list[list[float]]] = {"dx0": [], "dx1": []}
        for channel in range(2):
            each = _sums(layout, channel, weighting, epsilon)
            for i, part in enumerate(_joined(layout, channel, weighting)):
                sums = each[i] if loss == "of its own loss" else np.sum(each, axis=0)
                divisor = 2 * len(layout.ranks[i][0]) if weighting == "rank" else part.n
                deviation = math.sqrt(part.var() + Fraction(epsilon))
                xhat = np.asarray(normalized(layout.ranks[i][channel], part.mean, deviation))
                dx = (np.asarray(layout.dy[i][channel]) - (sums[0] + xhat * sums[1]) / divisor) / deviation
                predicted[f"dx{i}"].append((dx / 2 if loss == "of the ranks' mean loss" else dx).tolist())
        guesses.append(Guess({"loss": loss}, predicted))
    return read(guesses, seen, "loss")


def _sums(layout: _Samples, channel: int, weighting: str, epsilon: float) -> list[Array]:
    """For each rank the sum of dy and the sum of dy times xhat."""
    sums = []
    for rank, part in enumerate(_joined(layout, channel, weighting)):
        xhat = normalized(layout.ranks[rank][channel], part.mean, math.sqrt(part.var() + Fraction(epsilon)))
        dy = layout.dy[rank][channel]
        sums.append(np.asarray([math.fsum(dy), math.fsum(g * v for g, v in zip(dy, xhat, strict=True))]))
    return sums


def _held(array: Array | None, layout: _Samples, case: Case, rank: int) -> Observation:
    """Return the elements of one rank that count, (channels, samples)."""
    if array is None:
        raise Unobservable("it returned no such array")
    table = np.moveaxis(as_float64(array), case.config.axis, 0).reshape(case.channels, -1)
    return Observation(table[:, : len(layout.ranks[rank][0])], roundoff(array))
