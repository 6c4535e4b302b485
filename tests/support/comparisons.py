"""Comparisons of results: to the bit, by their largest deviation, or with the exact answer."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj

import bnspec
from bnspec._options import to_numpy
from bnspec._precision import library
from bnspec_conformance import Case, Outcome

__all__ = ["bits", "compare", "deviation"]


def bits(value: Any) -> Any:
    """Return a copy of anything that compares unequal when a bit of it changes.

    Arrays become library, dtype, shape and bytes; containers, records and objects of bnspec are entered; a path becomes
    the content of its file.
    """
    if is_array_api_obj(value):
        host = np.asarray(to_numpy(value))
        return (library(value), str(value.dtype), host.shape, host.tobytes())
    if isinstance(value, dict):
        return {key: bits(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    if isinstance(value, Path):
        return value.read_bytes() if value.exists() else None
    if isinstance(value, bnspec.UpdateCollection):
        return [id(update) for update in value._pending]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: bits(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, bnspec.BatchNorm):
        return {name: bits(v) for name, v in vars(value).items() if name != "_configs"}  # made again when asked for
    return value


def deviation(ours: Any, theirs: Any) -> float:
    """Return ``max|ours - theirs| / max(1, max|theirs|)``; 0 where both are empty."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    if theirs.size == 0:
        return 0.0
    return float(np.max(np.abs(ours - theirs)) / max(1.0, np.max(np.abs(theirs))))


def compare(subject: Any, case: Case, *fields: str, clause: str = "BN-NORM-1", outcome: Outcome | None = None) -> None:
    """Compare a subject's results with the exact answer, and raise a violation of any clause, not the check's alone."""
    from bnspec_conformance.trials.trial import Trial

    trial = Trial(subject, (clause,))
    trial.agree(case, *fields, outcome=outcome)
    for violation in trial.found:
        raise violation
