"""Edge cases: no element, one element, and NaN."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from bnspec_conformance.cases.case import Array, as_float64
from bnspec_conformance.probe.answers import RefusedCase
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Declared, Finding, Reading
from bnspec_conformance.probe.groups.one_value import AS_SPECIFIED as _AS_SPECIFIED
from bnspec_conformance.probe.groups.one_value import one_value
from bnspec_conformance.probe.predict import SENSES, ProbeState

__all__ = ["edges"]

_OLD = ProbeState(Fraction(8), Fraction(16), 4)
_CLEAN = ((0.0, 0.0, 0.0, 2.0), (1.0, 5.0, 1.0, 1.0))
_SPOILT = ((float("nan"), *_CLEAN[0][1:]), _CLEAN[1])


def edges(ask: Asker) -> Iterator[Finding]:
    """Measure everything about counts of 0 and 1 and about NaN."""
    ask.group = "edges"
    kept = Declared(("kept",), "BN-RUN-9")
    yield ask.judge("state, empty batch", kept, _empty, masked=False)
    yield ask.judge("state, all masked", kept, _empty, masked=True)
    yield ask.judge("one value, no state", Declared((_AS_SPECIFIED,), "BN-NORM-5"), one_value, state=False)
    fed = ask.row_correction()
    corrects = fed is not None and fed.accepted == ("1",)
    told = ask.by_row(lambda row: "refused" if corrects and row.single_value == "raise" else _AS_SPECIFIED)
    yield ask.judge("one value, with a state", told, one_value, state=True)
    own = Declared(("its own channel",), "BN-MOM-9")
    yield ask.judge("NaN in y reaches", own, _isolated, state=False)
    yield ask.judge("NaN in the state reaches", own, _isolated, state=True)
    for suffix, value, declared in ask.choices("nonfinite"):
        yield ask.judge("nonfinite" + suffix, declared, _nonfinite, value)


def _empty(ask: Asker, *, masked: bool) -> Reading:
    if masked:
        case = ask.case(_CLEAN, mask=[[False] * 4], state=_OLD)
    else:
        case = ask.case(((), ()), state=_OLD)
    try:
        state = ask.state(case)
    except RefusedCase as refusal:
        ask.accepts(ask.case(_CLEAN, state=_OLD, mask=[[True] * 4] if masked else None), refusal)
        return Reading(("refused",), str(refusal))
    return _moved(state, float(Fraction(case.config.decay)))


def _moved(state: dict[str, Array], decay: float) -> Reading:
    mean, var = as_float64(state["mean"]), as_float64(state["var"])
    if np.array_equal(mean, [8.0] * 2) and np.array_equal(var, [16.0] * 2):
        return Reading(("kept",))
    if not np.all(np.isfinite(mean)) or not np.all(np.isfinite(var)):
        return Reading(("not finite",))
    shares = [1 - float(weight(Fraction(decay))) for weight in SENSES.values()]
    if any(np.allclose(mean, 8 * s) and np.allclose(var, 16 * s) for s in shares):
        return Reading(("moved towards 0",))
    return Reading((), f"saw mean {mean.tolist()}, var {var.tolist()}")


def _one(ask: Asker, *, state: bool) -> Reading:
    case = ask.case(((4.0,), (2.0,)), state=_OLD if state else None)
    try:
        ask.run(case)
    except RefusedCase as refusal:
        return Reading(("refused",), str(refusal))
    return Reading(("accepted",))


def _isolated(ask: Asker, *, state: bool) -> Reading:
    """Compare the second channel with and without a NaN in the first, bit by bit; the first must show the NaN."""
    found = []
    for columns in (_CLEAN, _SPOILT):
        case = ask.case(columns, state=_OLD if state else None, nonfinite="propagate")
        if state:
            arrays = ask.state(case)
            found.append(np.asarray([as_float64(arrays[name]) for name in ("mean", "var")]).T)
        else:
            found.append(ask.output(case).values)
    clean, spoilt = found
    if not np.all(np.isfinite(clean)):
        return Reading((), "there is one without any in x")
    if not np.array_equal(clean[1], spoilt[1]):
        return Reading(("other channels too",))
    if not np.any(np.isfinite(spoilt[0])):
        return Reading(("its own channel",))
    if state and case.config.nonfinite == "skip" and np.array_equal(spoilt[0], [float(_OLD.mean), float(_OLD.var)]):
        return Reading(("its own channel",), "which stays as it was")
    lost = np.isnan(spoilt[0])
    return Reading((), f"its own channel has it in {int(np.sum(lost))} of {lost.size} places")


def _nonfinite(ask: Asker, value: str) -> Reading:
    case = ask.case(_SPOILT, state=_OLD, nonfinite=value)
    clean = ask.case(_CLEAN, state=_OLD, nonfinite=value)
    try:
        state = ask.state(case)
    except RefusedCase as refusal:
        ask.accepts(clean, refusal)
        return Reading(("raise",), str(refusal))
    mean, var = as_float64(state["mean"]), as_float64(state["var"])
    expected = ask.state(clean)
    moved = all(np.array_equal(as_float64(state[name])[1], as_float64(expected[name])[1]) for name in ("mean", "var"))
    if not np.isfinite(mean[0]) and not np.isfinite(var[0]):
        lost = not np.any(np.isfinite(mean)) and not np.any(np.isfinite(var))
        if moved or lost:
            return Reading(("propagate" if moved else "propagate to every channel",))
    if (mean[0], var[0]) == (8.0, 16.0):
        return Reading(("skip" if moved else "skip every channel",))
    return Reading((), f"saw mean {mean.tolist()}, var {var.tolist()}")
