"""Conventions of a layer that no case shows: its own defaults, its words, and the time of its updates.

A subject that is a layer offers any of these methods; what it lacks is "not observable".

``default_layer() -> Subject``
    A subject whose layer is built without options: it ignores a case's configuration but for the axis, and takes
    its parameters and its running state.
``with_momentum(m) -> Subject``
    The same, but for the framework's own argument momentum (or decay_rate, ...), which is m.
``variable_names() -> Mapping[str, str]``
    Our field (gamma, beta, mean, var, count) to the name of the variable in a real layer's state; see
    `bnspec_conformance.probe.names_by_value`.
``timeline(case) -> Iterable[tuple[str, Mapping[str, array]]]``
    The running state after each stage of one training step of a default layer: "call", then "backward" and "collected"
    where the layer has such stages.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from bnspec import Dialect
from bnspec_conformance.cases.case import Case, as_float64
from bnspec_conformance.probe.answers import RefusedCase, Unobservable, observed
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Finding, Guess, Reading, read
from bnspec_conformance.probe.groups.normalize import effective
from bnspec_conformance.probe.groups.our_layer import OurLayer
from bnspec_conformance.probe.predict import EPSILON_PLACES, SENSES, ProbeState, blend, moments
from bnspec_conformance.subjects import NotSupported

__all__ = ["layer"]

_COLUMNS = ((0.0, 0.0, 0.0, 2.0), (1.0, 5.0, 1.0, 1.0))
_OLD = ProbeState(Fraction(8), Fraction(0), 4)


def layer(ask: Asker) -> Iterator[Finding]:
    """Measure defaults, the sense of momentum, names, and when the state is updated."""
    ask.group = "layer"
    yield ask.judge("default epsilon", ask.by_row(lambda row: f"{row.epsilon:.4g}"), _epsilon)
    yield ask.judge("default decay", ask.by_row(lambda row: f"{row.decay:.4g}"), _default_step, "decay")
    default = None if ask.row is None else ask.row_correction()
    yield ask.judge("default correction", default, _default_step, "correction")
    yield ask.judge("momentum weighs", ask.by_row(lambda row: row.momentum_weighs), _momentum)
    for field in ("gamma", "beta", "mean", "var", "count"):
        yield ask.judge(f"name of {field}", ask.by_row(_named(field)), _name, field)
    when = {"internal": "in the call", "collection": "when collected"}
    yield ask.judge("state is updated", ask.by_row(lambda row: when[row.default_update]), _timing)


def _made(ask: Asker, name: str, *arguments: Any) -> Any:
    """Return the result of a subject's own method, or for bnspec's backends that of bnspec's layer."""
    owner: Any = ask.subject
    if not callable(getattr(owner, name, None)):
        if owner.backend is None:
            raise Unobservable(f"it offers no {name}()")
        owner = OurLayer(owner.backend)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = getattr(owner, name)(*arguments)
            return list(made) if isinstance(made, Iterator) else made
    except NotSupported as reason:
        raise Unobservable(str(reason)) from reason
    except Exception as error:
        raise RefusedCase(f"{name}() raised {type(error).__name__}: {error}") from error


def _epsilon(ask: Asker) -> Reading:
    """By a training call; by inference where that is no normalization by the batch."""
    reading = _solved(ask, "batch")
    scope = ask.subject.scope
    if reading.fits or not {"running", "inference"} <= scope.profiles:
        return reading
    return _solved(ask, "inference")


def _solved(ask: Asker, mode: str) -> Reading:
    """Solve for epsilon in one channel, in every place that scales tell apart, and confirm it in the other."""
    made = _made(ask, "default_layer")
    scales = (2.0**-8, 2.0**-5) if ask.dtype in ("float32", "float64") else (2.0**-4, 2.0**-2)
    columns = tuple([0.0, 0.0, 0.0, 2 * s] for s in scales)
    parts = [moments(c) for c in columns]
    state = [ProbeState(p.mean, p.var(), 1) for p in parts] if mode == "inference" else None
    case = ask.case(columns, state=state, mode=mode)
    y = ask.run(case, made)[0].y
    if y is None:
        raise Unobservable("it returned no y")
    table = np.moveaxis(as_float64(y), case.config.axis, 0).reshape(2, -1)
    first, second = (effective(c, table[i])[1] for i, c in enumerate(columns))
    solved = {
        "inside the root": first**2 - float(parts[0].var()),
        "outside the root": first - math.sqrt(parts[0].var()),
        "max(var, epsilon)": first**2,
    }
    fits = [
        f"{epsilon:.4g}" + ("" if place == "inside the root" else f" ({place})")
        for place, epsilon in solved.items()
        if epsilon > 0 and math.isclose(EPSILON_PLACES[place](parts[1].var(), Fraction(epsilon)), second, rel_tol=1e-4)
    ]
    return Reading(tuple(fits), "" if fits else f"standard deviations {first:.6g} and {second:.6g}")


def _default_step(ask: Asker, about: str) -> Reading:
    """Decay from where the mean goes, and with it the correction from where the variance goes."""
    case = ask.case(_COLUMNS, state=_OLD)
    state = ask.state(case, _made(ask, "default_layer"))
    mean, var = as_float64(state["mean"]), as_float64(state["var"])
    parts = [moments(c) for c in _COLUMNS]
    kept = [(m - float(p.mean)) / float(_OLD.mean - p.mean) for m, p in zip(mean, parts, strict=True)]
    if not math.isclose(kept[0], kept[1], rel_tol=1e-3, abs_tol=1e-5):
        return Reading((), f"the channels keep {kept[0]:.4g} and {kept[1]:.4g} of the old mean")
    if about == "decay":
        return Reading((f"{kept[0]:.4g}",))
    weight = 1 - kept[0]
    if weight <= 1e-6:
        return Reading((), "the state does not move")
    fits = [str(c) for c in (0, 1) if np.allclose(var / weight, [float(p.var(c)) for p in parts], rtol=1e-3)]
    return Reading(tuple(fits), "" if fits else f"saw var {var.tolist()}")


def _momentum(ask: Asker) -> Reading:
    """Give the framework's own argument 1/4 and see what it multiplies."""
    case = ask.case(_COLUMNS, state=_OLD)
    state = ask.state(case, _made(ask, "with_momentum", 0.25))
    parts = [moments(c) for c in _COLUMNS]
    words = {"old value": "old", "new value": "new"}
    guesses = [
        Guess({"momentum": words[s]}, {"mean": [float(blend(_OLD.mean, p.mean, w(Fraction(1, 4)))) for p in parts]})
        for s, w in SENSES.items()
    ]
    return read(guesses, {"mean": observed(state)["mean"]}, "momentum")


def _named(field: str) -> Callable[[Dialect], str]:
    return lambda row: row.names[field]


def _name(ask: Asker, field: str) -> Reading:
    names: Mapping[str, str] = _made(ask, "variable_names")
    if field not in names:
        raise Unobservable(f"the layer has no variable for {field}")
    return Reading((names[field],))


def _timing(ask: Asker) -> Reading:
    """From the stages of a layer's step; of a plain subject, from whether the state needs a gradient to move."""
    case = ask.case(_COLUMNS, state=_OLD)
    try:
        stages: list[tuple[str, Mapping[str, Any]]] = _made(ask, "timeline", case)
    except Unobservable:
        return _by_gradient(ask, case)
    said = {"call": "in the call", "backward": "in backward", "collected": "when collected"}
    for stage, state in stages:
        if _has_moved(state):
            return Reading((said.get(stage, stage),))
    return Reading(("never",))


def _has_moved(state: Mapping[str, Any]) -> bool:
    """Return whether the mean lies between the old one and the batch's."""
    mean = as_float64(state["mean"])
    if not np.all(np.isfinite(mean)):
        raise RefusedCase(f"its mean became {mean.tolist()}")
    return not np.allclose(mean, float(_OLD.mean))


def _by_gradient(ask: Asker, case: Case) -> Reading:
    if _has_moved(ask.state(case)):
        return Reading(("in the call",))
    if "grad" in ask.subject.scope.profiles:
        if _has_moved(ask.state(ask.case(_COLUMNS, state=_OLD, dy=[_COLUMNS]))):
            return Reading(("in backward",))
    return Reading(("never",))
