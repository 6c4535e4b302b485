"""One value per channel: refused, or normalized to some y and some state."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Case
from bnspec_conformance.probe.answers import RefusedCase, Unobservable, observed, roundoff
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Guess, Observation, Reading, read
from bnspec_conformance.probe.predict import (
    EPSILON_PLACES,
    SENSES,
    ExactMoments,
    ProbeState,
    blend,
    merged,
    moments,
    normalized,
    update_guesses,
)

__all__ = ["AS_SPECIFIED", "one_value"]

#: The mean is the value, so that nothing is left but beta [BN-NORM-5].
AS_SPECIFIED = "accepted, y = beta"

_OLD = ProbeState(Fraction(8), Fraction(16), 4)
_ONE, _TWO = ((4.0,), (2.0,)), ((4.0, 6.0), (2.0, 5.0))
_GAMMA, _BETA = (3.0, 5.0), (7.0, -2.0)
#: Addition to the answer where the state does something else than an update by this value.
_STATES = {"unchanged": ", the state stays", "replaced by the batch": ", the state is the batch's"}


def one_value(ask: Asker, *, state: bool) -> Reading:
    """Give each channel one value, with gamma and beta so that y = beta, y = x and y = 0 are three answers."""
    case = _case(ask, _ONE, state)
    try:
        rank = ask.run(case)[0]
    except RefusedCase as refusal:
        ask.accepts(_case(ask, _TWO, state), refusal)
        return Reading(("refused",), str(refusal))
    if rank.y is None:
        raise Unobservable("it returned no y")
    seen = {
        "y": Observation(
            np.moveaxis(np.asarray(rank.y, np.float64), case.config.axis, 0).reshape(2, -1), roundoff(rank.y)
        )
    }
    if state:
        if rank.state is None or not {"mean", "var"} <= rank.state.keys():
            raise Unobservable("it returned no running state")
        seen |= {name: o for name, o in observed(rank.state).items() if name in ("mean", "var")}
    return read(_guesses(case, state), seen, "one value")


def _case(ask: Asker, columns: Sequence[Sequence[float]], state: bool) -> Case:
    given = _OLD if state else None
    try:
        return ask.case(columns, state=given, gamma=_GAMMA, beta=_BETA, averaging="exponential")
    except Unobservable:  # it may have no parameters
        return ask.case(columns, state=given, averaging="exponential")


def _guesses(case: Case, state: bool) -> Iterator[Guess]:
    for (name, y), (more, after) in product(_outputs(case), _states(case) if state else [("", {})]):
        yield Guess({"one value": f"accepted, {name}{more}"}, {"y": y} | after)


def _outputs(case: Case) -> Iterator[tuple[str, list[list[float]]]]:
    """Yield every known y once: without gamma and beta some are the same, and the first name stands for all."""
    known: list[list[list[float]]] = []
    for name, y in _named(case):
        if y not in known:
            known.append(y)
            yield name, y


def _named(case: Case) -> Iterator[tuple[str, list[list[float]]]]:
    gamma = (1.0, 1.0) if case.gamma is None else _GAMMA
    beta = (0.0, 0.0) if case.beta is None else _BETA
    yield "y = beta", [[b] for b in beta]
    yield "returns x", [[x] for (x,) in _ONE]
    yield "y = 0", [[0.0], [0.0]]
    yield "y = gamma*x + beta", [[g * x + b] for g, (x,), b in zip(gamma, _ONE, beta, strict=True)]
    yield "y is not a number", [[float("nan")]] * 2
    old, whole = ExactMoments(1, _OLD.mean, _OLD.var), merged([moments(column) for column in _ONE])
    ways: list[tuple[str, Sequence[ExactMoments]]] = [
        ("y by the running statistics", [old, old]),
        ("y by all channels together", [whole, whole]),
    ]
    for weight in (w(Fraction(case.config.decay)) for w in SENSES.values()):
        after = [
            ExactMoments(1, blend(old.mean, Fraction(x), weight), blend(old.m2, Fraction(0), weight)) for (x,) in _ONE
        ]
        ways.append(("y by the updated running statistics", after))
    for (way, parts), place in product(ways, EPSILON_PLACES.values()):
        scales = [place(part.var(), Fraction(case.config.epsilon)) for part in parts]
        if all(scales):
            rows = zip(gamma, _ONE, beta, parts, scales, strict=True)
            yield way, [[g * v + b for v in normalized(x, p.mean, s)] for g, x, b, p, s in rows]


def _states(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """As one update by the value leaves it, whatever becomes of its variance, and other ways."""
    old = _OLD._replace(seen=None) if case.config.averaging == "exponential" else _OLD
    for guess in update_guesses(_ONE, old, case.config.decay):
        name = _STATES.get(guess.names["averaging"], "")
        after = {key: guess.predicted[key] for key in ("mean", "var")}
        yield name, after
        if not name:
            yield name, after | {"var": [float(_OLD.var)]}
            yield ", the variance is lost", after | {"var": [float("nan")]}
            yield ", the variance is lost", after | {"var": [float("inf")]}
