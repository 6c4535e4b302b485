"""Mutants of refusals: their text, their effects, and those that are missing."""

from bnspec import _arrays
from bnspec._config import BatchNormConfig, _decay
from bnspec._context import UpdateCollection
from bnspec._dialects import _Dialects
from bnspec._discovery import get_backend
from bnspec._errors import refusal
from bnspec._layer import BatchNorm
from bnspec._tape import Tape
from bnspec_conformance.mutants.mutant import Mutant, edit, wrap

__all__ = ["MUTANTS"]

_TEXT = 'return kind(f"{got}; expected {expected} [{clause}]. {do}")'
_TAPE = "tape = self._tape\n"

MUTANTS = (
    Mutant(
        name="epsilon-zero",
        clause="BN-NORM-1",
        row="D6",
        breaks="Takes epsilon = 0.",
        apply=edit(BatchNormConfig.__post_init__, "lambda v: v > 0,", "lambda v: v >= 0,"),
    ),
    Mutant(
        name="decay-out-of-range",
        clause="BN-RUN-1",
        row="D1",
        breaks="Takes a decay above 1, such as a percentage.",
        apply=edit(_decay, "lambda v: 0 <= v <= 1", "lambda v: 0 <= v"),
    ),
    Mutant(
        name="refusal-without-clause",
        clause="BN-ERR-1",
        breaks="Refuses without naming the clause.",
        apply=edit(refusal, _TEXT, _TEXT.replace(" [{clause}]", "")),
    ),
    Mutant(
        name="refusal-without-advice",
        clause="BN-ERR-1",
        breaks="Refuses without saying what to do.",
        apply=edit(refusal, _TEXT, _TEXT.replace(". {do}", "")),
    ),
    Mutant(
        name="refusal-with-contents",
        clause="BN-ERR-1",
        breaks="Prints an array's contents in a refusal.",
        apply=edit(_arrays.vector, 'got=f"{name}: {label} has shape', 'got=f"{name}: {label} = {value} has shape'),
    ),
    Mutant(
        name="refused-call-is-kept",
        clause="BN-ERR-2",
        breaks="Keeps the forward pass of a call whose update is refused, so that backward answers another one.",
        apply=edit(
            BatchNorm.__call__,
            "state = self._updated(current, stats, config)",
            "try:\n                state = self._updated(current, stats, config)\n            except Exception:\n"
            "                self._keep(params, current, saved, comm, due=True, y=y)\n                raise",
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
        apply=edit(
            UpdateCollection.run,
            "self._pending[0]()\n            del self._pending[0]",
            "self._pending.pop(0)()",
        ),
    ),
    Mutant(
        name="two-libraries",
        clause="BN-ERR-3",
        row="D28",
        breaks="Takes arrays of two libraries in one call.",
        apply=wrap(_arrays.same_home, lambda original, *given: None),
    ),
    Mutant(
        name="backward-twice",
        clause="BN-ERR-4",
        breaks="Serves a second backward pass for one forward pass.",
        apply=edit(BatchNorm.backward, "_tape=Tape() if same else self._tape", "_tape=tape"),
    ),
    Mutant(
        name="backward-without-forward",
        clause="BN-ERR-4",
        breaks="Returns dy from a backward pass before any forward pass.",
        apply=edit(BatchNorm.backward, _TAPE, _TAPE + "    if tape.calls == 0:\n        return dy\n"),
    ),
    Mutant(
        name="backward-of-the-last-call",
        clause="BN-ERR-4",
        breaks="Answers with the last of several calls, whichever of them a backward pass was meant for.",
        apply=edit(Tape.after, "return Tape(self.calls + 1, None,", "return Tape(1, call,"),
    ),
    Mutant(
        name="unknown-dialect",
        clause="BN-ERR-5",
        breaks="Takes its own conventions for a dialect that it does not know.",
        apply=edit(
            _Dialects.__getitem__,
            "if not isinstance(name, str) or name not in self._rows:",
            "name = name if name in self._rows else 'bnspec'\n    if False:",
        ),
    ),
    Mutant(
        name="another-backend-instead",
        clause="BN-ERR-5",
        breaks="Takes NumPy where the library of the backend that is asked for is missing.",
        apply=edit(
            get_backend,
            "except ImportError as error:\n",
            "except ImportError as error:\n            return get_backend('numpy')\n",
        ),
    ),
    Mutant(
        name="any-update-mode",
        clause="BN-ERR-5",
        row="D20",
        breaks='Takes an update mode that it does not know as "internal".',
        apply=edit(
            BatchNorm._check_update,
            "if ema_update not in EMA_UPDATES:",
            "if ema_update not in EMA_UPDATES:\n        return 'internal'\n    if False:",
        ),
    ),
)
