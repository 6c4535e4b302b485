"""Update of the running state by a batch: decay, correction, averaging, one value, no value, and the time."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import as_float64
from bnspec_conformance.probe.answers import RefusedCase, Unobservable, observed
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Declared, Finding, Guess, Reading, read
from bnspec_conformance.probe.groups.normalize import inference_guesses
from bnspec_conformance.probe.predict import SENSES, ProbeState, blend, moments, update_guesses

__all__ = ["COLUMNS", "OLD", "running"]

#: Two channels of mean 1/2 and 2, population variance 3/4 and 3, sample variance 1 and 4.
COLUMNS = ((0, 0, 0, 2), (1, 5, 1, 1))
#: No hypothesis gives the same as another from here. The count matters to averages that count.
OLD = ProbeState(Fraction(8), Fraction(0), 4)


def running(ask: Asker) -> Iterator[Finding]:
    """Measure everything about the running state that a batch as a whole shows."""
    ask.group = "running"
    yield ask.judge("decay multiplies", Declared(("old value",), "BN-RUN-1"), _read, "decay")
    yield from _correction(ask)
    for suffix, value, declared in ask.choices("averaging"):
        yield ask.judge("averaging" + suffix, declared, _averaging, value)
    yield ask.judge("debiased averages start at", Declared(("mean 0, var 0",), "BN-RUN-2"), _start)
    for suffix, value, declared in ask.choices("single_value"):
        yield ask.judge("single value" + suffix, declared, _single, value)
    yield ask.judge("counter, empty batch", Declared(("kept",), "BN-RUN-9"), _counter)


def _read(ask: Asker, about: str, **wanted: Any) -> Reading:
    case = ask.case(COLUMNS, state=OLD, **wanted)
    guesses = update_guesses(COLUMNS, _old(case.config.averaging), case.config.decay)
    return read(guesses, observed(ask.state(case)), about)


def _old(averaging: str) -> ProbeState:
    return OLD._replace(seen=None) if averaging == "exponential" else OLD


def _correction(ask: Asker) -> Iterator[Finding]:
    """For each value that can be asked; the row's own in every situation in which rows differ."""
    choices = ask.choices("correction")
    for ndim in (2, 4):
        for dtype in ("float32", "float64"):
            suffix = f" (rank {ndim}{', float64' if dtype == 'float64' else ''})"
            if ndim not in ask.subject.scope.ndims or dtype not in ask.subject.scope.dtypes:
                continue
            told = ask.row_correction(ndim=ndim, dtype=dtype)
            yield ask.judge("correction" + suffix, told, _read, "correction", ndim=ndim, dtype=dtype)
    for suffix, value, declared in choices[1:]:
        yield ask.judge("correction" + suffix, declared, _read, "correction", correction=value)


def _averaging(ask: Asker, value: str) -> Reading:
    """Return the law from one update; whether inference divides by 1 - decay^t from one more call."""
    case = ask.case(COLUMNS, state=OLD, averaging=value)
    guesses = update_guesses(COLUMNS, _old(case.config.averaging), case.config.decay)
    law = read(guesses, observed(ask.state(case)), "averaging")
    if law.fits != ("exponential",) or case.config.averaging == "exponential":
        return law
    try:
        used = _inference_state(ask, value)
    except Unobservable as reason:
        return Reading(("exponential", "debiased"), f"inference would tell: {reason}")
    names = {"as they are": "exponential", "debiased": "debiased"}
    return Reading(tuple(names[fit] for fit in used.fits), used.note)


def _inference_state(ask: Asker, averaging: str) -> Reading:
    old = ProbeState(Fraction(1, 8), Fraction(3, 16), 1)
    case = ask.case(COLUMNS, state=old, mode="inference", averaging=averaging)
    guesses = inference_guesses(COLUMNS, [old, old], case.config.decay, case.config.epsilon)
    return read(guesses, {"y": ask.output(case)}, "running statistics are used")


def _start(ask: Asker) -> Reading:
    """Measure the start of the first update, where dividing by 1 - decay^count asks for zeros."""
    ask.allows(averaging="debiased")
    case = ask.case(COLUMNS, state=ProbeState(Fraction(0), Fraction(0), 0), averaging="debiased")
    decay = Fraction(case.config.decay)
    guesses = []
    for mean, var, (sense, weight), correction in product((0, 1), (0, 1), SENSES.items(), (0, 1)):
        parts = [moments(column) for column in COLUMNS]
        state = {
            "mean": [float(blend(Fraction(mean), p.mean, weight(decay))) for p in parts],
            "var": [float(blend(Fraction(var), p.var(correction), weight(decay))) for p in parts],
        }
        guesses.append(Guess({"start": f"mean {mean}, var {var}", "sense": sense}, state))
    return read(guesses, observed(ask.state(case)), "start")


def _single(ask: Asker, value: str) -> Reading:
    """Measure the effect of a count of 1 on the running variance where the correction leaves a divisor of 0."""
    ask.allows(correction=1)
    if _read(ask, "correction", correction=1, single_value=value, averaging="exponential").fits == ("0",):
        raise Unobservable("the variance that it feeds has correction 0, which a single value has")
    old = ProbeState(Fraction(8), Fraction(16), 4)
    how: dict[str, Any] = {"state": old, "correction": 1, "single_value": value, "averaging": "exponential"}
    case = ask.case(((4,), (2,)), **how)
    try:
        state = ask.state(case)
    except RefusedCase as refusal:
        ask.accepts(ask.case(((4, 6), (2, 5)), **how), refusal)
        return Reading(("raise",), str(refusal))
    mean, var = as_float64(state["mean"]), as_float64(state["var"])
    if np.array_equal(mean, [8.0, 8.0]):
        return Reading((), f"mean and variance stayed at {mean[0]:g} and {var[0]:g}")
    moved = [
        [float(blend(old.mean, Fraction(v), w(Fraction(case.config.decay)))) for v in (4, 2)] for w in SENSES.values()
    ]
    if not any(np.allclose(mean, m) for m in moved):
        return Reading((), f"saw mean {mean.tolist()}, var {var.tolist()}")
    if not np.any(np.isfinite(var)):
        return Reading(("not finite",))
    weights = [weight(Fraction(case.config.decay)) for weight in SENSES.values()]
    floors = [float(blend(old.var, Fraction(0), w)) for w in weights]
    fits = [name for name, near in (("keep", [16.0]), ("floor", floors)) if any(np.allclose(var, v) for v in near)]
    return Reading(tuple(fits), "" if fits else f"saw var {var.tolist()}")


def _counter(ask: Asker) -> Reading:
    """Measure whether a batch without elements counts, in the first averaging that counts."""
    allowed = ask.subject.scope.options.get("averaging", ("cumulative",))
    counted = [a for a in allowed if a != "exponential"]
    if not counted:
        raise Unobservable("its state has no counter")
    state = ask.state(ask.case(((), ()), state=OLD, averaging=counted[0]))
    if "count" not in state:
        raise Unobservable("it returned no counter")
    count = as_float64(state["count"])
    note = f"4 became {np.asarray(state['count']).tolist()[0]}"
    if np.array_equal(count, [4.0, 4.0]):
        return Reading(("kept",))
    return Reading(("counted",) if np.array_equal(count, [5.0, 5.0]) else (), note)
