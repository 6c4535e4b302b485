"""What happens to no element, to one element, and to NaN."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from bnspec_conformance.case import Array, as_float64
from bnspec_conformance.probe._ask import Asker, RefusedCase
from bnspec_conformance.probe._findings import Declared, Finding, Reading
from bnspec_conformance.probe._predict import SENSES, State

__all__ = ["edges"]

_OLD = State(Fraction(8), Fraction(16), 4)
_CLEAN = ((0.0, 0.0, 0.0, 2.0), (1.0, 5.0, 1.0, 1.0))


def edges(ask: Asker) -> Iterator[Finding]:
    """Measure everything about counts of 0 and 1 and about NaN."""
    ask.group = "edges"
    kept = Declared(("kept",), "BN-RUN-9")
    yield ask.judge("state, empty batch", kept, _empty, masked=False)
    yield ask.judge("state, all masked", kept, _empty, masked=True)
    yield ask.judge("one value, no state", Declared(("accepted",), "BN-NORM-5"), _one, state=False)
    fed = ask.row_correction()
    corrects = fed is not None and fed.accepted == ("1",)
    told = ask.by_row(lambda row: "refused" if corrects and row.single_value == "raise" else "accepted")
    yield ask.judge("one value, with a state", told, _one, state=True)
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
    """Compare the second channel with and without a NaN in the first, bit by bit."""
    spoilt = ((float("nan"), *_CLEAN[0][1:]), _CLEAN[1])
    results = []
    for columns in (_CLEAN, spoilt):
        case = ask.case(columns, state=_OLD if state else None, nonfinite="propagate")
        if state:
            arrays = ask.state(case)
            results.append([as_float64(arrays[name])[1] for name in ("mean", "var")])
        else:
            results.append(ask.output(case).values[1].tolist())
    return Reading(("its own channel",) if results[0] == results[1] else ("other channels too",))


def _nonfinite(ask: Asker, value: str) -> Reading:
    spoilt = ((float("nan"), *_CLEAN[0][1:]), _CLEAN[1])
    case = ask.case(spoilt, state=_OLD, nonfinite=value)
    try:
        state = ask.state(case)
    except RefusedCase:
        return Reading(("raise",))
    mean, var = float(state["mean"][0]), float(state["var"][0])
    if not np.isfinite(mean) and not np.isfinite(var):
        return Reading(("propagate",))
    if (mean, var) == (8.0, 16.0):
        return Reading(("skip",))
    return Reading((), f"saw mean {mean:g}, var {var:g}")
