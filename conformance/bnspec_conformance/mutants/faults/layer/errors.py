"""Mutants of refusals: their text, their effects, and those that are missing."""

import math
from typing import Any

from bnspec._checks import arrays
from bnspec._config import BatchNormConfig, _decay
from bnspec._context import UpdateCollection
from bnspec._dialects import _Dialects
from bnspec._discovery import get_backend
from bnspec._errors import refusal
from bnspec._layer.configuration import LayerConfig
from bnspec._layer.layer import BatchNorm
from bnspec._layer.tape import Tape
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _above_one(original: Any, value: Any, clause: str) -> float:
    above = isinstance(value, int | float) and math.isfinite(value) and value > 1
    return float(value if above else original(value, clause))


def _without_clause(original: Any, kind: Any, clause: str, *, got: str, expected: str, do: str) -> Any:
    return kind(f"{got}; expected {expected}. {do}")


def _without_advice(original: Any, kind: Any, clause: str, *, got: str, expected: str, do: str) -> Any:
    return kind(f"{got}; expected {expected} [{clause}]")


def _with_contents(original: Any, label: str, value: Any, *rest: Any) -> None:
    try:
        original(label, value, *rest)
    except ValueError as error:
        raise ValueError(f"{label} = {value}: {error}") from error


def _refused_dropped(original: Any, collection: Any) -> None:
    try:
        original(collection)
    except Exception:
        del collection._pending[0]
        raise


def _served_again(original: Any, layer: Any, dy: Any) -> Any:
    tape = layer._tape
    dx = original(layer, dy)
    vars(layer).update(_tape=tape)
    return dx


def _known_or_own(original: Any, dialects: Any, name: Any) -> Any:
    return original(dialects, name if name in list(dialects) else "bnspec")


def _numpy_instead(original: Any, name: str) -> Any:
    try:
        return original(name)
    except ImportError:
        return original("numpy")


def _internal_instead(original: Any, layer: Any, ema_update: Any) -> Any:
    try:
        return original(layer, ema_update)
    except ValueError:
        return "internal"


MUTANTS = (
    Mutant(
        name="epsilon-below-zero",
        clause="BN-NORM-1",
        row="D6",
        breaks="Takes an epsilon below 0.",
        apply=edit(BatchNormConfig.__post_init__, "lambda v: v >= 0,", "lambda v: True,"),
    ),
    Mutant(
        name="decay-out-of-range",
        clause="BN-RUN-1",
        row="D1",
        breaks="Takes a decay above 1, such as a percentage.",
        apply=wrap(_decay, _above_one),
    ),
    Mutant(
        name="refusal-without-clause",
        clause="BN-ERR-1",
        breaks="Refuses without naming the clause.",
        apply=wrap(refusal, _without_clause),
    ),
    Mutant(
        name="refusal-without-advice",
        clause="BN-ERR-1",
        breaks="Refuses without saying what to do.",
        apply=wrap(refusal, _without_advice),
    ),
    Mutant(
        name="refusal-with-contents",
        clause="BN-ERR-1",
        breaks="Prints an array's contents in a refusal.",
        apply=wrap(arrays.vector, _with_contents),
    ),
    Mutant(
        name="refused-call-is-kept",
        clause="BN-ERR-2",
        breaks="Keeps the forward pass of a call whose update is refused, so that backward answers another one.",
        apply=edit(
            BatchNorm.__call__,
            "state = self._updated(current, stats, config)",
            "try:\n                state = self._updated(current, stats, config)\n            except Exception:\n"
            "                self._keep(params, current, call)\n                raise",
        ),
    ),
    Mutant(
        name="refused-call-makes-variables",
        clause="BN-ERR-2",
        breaks="Makes a layer's variables in a call that is refused.",
        apply=edit(
            BatchNorm.__call__,
            "params, state = self._variables_for(x, config)",
            "params, state = self._variables_for(x, config)\n    self.params, self.state = params, state",
        ),
    ),
    Mutant(
        name="refused-update-is-dropped",
        clause="BN-RUN-4",
        breaks="Drops a pending update that is refused, and those before it are made again.",
        apply=wrap(UpdateCollection.run, _refused_dropped),
    ),
    Mutant(
        name="two-libraries",
        clause="BN-ERR-3",
        row="D28",
        breaks="Takes arrays of two libraries in one call.",
        apply=wrap(arrays.same_home, lambda original, *given: None),
    ),
    Mutant(
        name="backward-twice",
        clause="BN-ERR-4",
        breaks="Serves a second backward pass for one forward pass.",
        apply=wrap(BatchNorm.backward, _served_again),
    ),
    Mutant(
        name="backward-without-forward",
        clause="BN-ERR-4",
        breaks="Returns dy from a backward pass before any forward pass.",
        apply=wrap(BatchNorm.backward, lambda original, layer, dy: original(layer, dy) if layer._tape.calls else dy),
    ),
    Mutant(
        name="backward-of-the-last-call",
        clause="BN-ERR-4",
        breaks="Answers with the last of several calls, whichever of them a backward pass was meant for.",
        apply=wrap(Tape.after, lambda original, tape, call, **named: original(Tape(), call, **named)),
    ),
    Mutant(
        name="unknown-dialect",
        clause="BN-ERR-5",
        breaks="Takes its own conventions for a dialect that it does not know.",
        apply=wrap(_Dialects.__getitem__, _known_or_own),
    ),
    Mutant(
        name="another-backend-instead",
        clause="BN-ERR-5",
        breaks="Takes NumPy where the library of the backend that is asked for is missing.",
        apply=wrap(get_backend, _numpy_instead),
    ),
    Mutant(
        name="any-update-mode",
        clause="BN-ERR-5",
        row="D20",
        breaks='Takes an update mode that it does not know as "internal".',
        apply=wrap(LayerConfig._check_update, _internal_instead),
    ),
)
