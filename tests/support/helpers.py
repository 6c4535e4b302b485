"""What several test files share: bits of anything, and a refusal that must leave them as they were."""

import dataclasses
import importlib.util
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from array_api_compat import is_array_api_obj

import bnspec
from bnspec import _context, _discovery
from bnspec._clauses import clauses
from bnspec._options import to_numpy
from bnspec._precision import library

#: Backends whose library is installed here.
BACKENDS = [info.name for info in bnspec.known_backends() if info.available]

#: what came; expected what was expected [clause]. What to do.
REFUSAL = re.compile(r"\S.*; expected \S.* \[(BN-[A-Z]+-[1-9][0-9]*)\]\. \S.*[.]", re.DOTALL)


def installed(module):
    """Whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def bits(value):
    """Turn anything into something comparable that differs when a bit of it does.

    Arrays become library, dtype, shape and bytes; containers, records and objects of bnspec are entered; a path is
    the file's content.
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
        return {
            name: bits(v) for name, v in vars(value).items() if name != "_configs"
        }  # made again when it is asked for
    return value


def process():
    """What bnspec remembers outside of layers: the context, primitives that were found, warnings that were given."""
    return bnspec.current_context(), _context.is_recomputing(), _context._frozen_warned, dict(_discovery._kernels)


@contextmanager
def refused(kind, text, *watched):
    """Expect exactly this refusal, and every watched thing and the process to the bit as they were.

    ``text`` is the whole message; its four parts and the clause are checked as well.
    """
    before = bits([watched, process()])
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value) == text
    parts = REFUSAL.fullmatch(text)
    assert parts, f"not of the form 'came; expected wanted [clause]. Advice.': {text}"
    assert parts[1] in clauses()
    assert bits([watched, process()]) == before


def deviation(ours, theirs):
    """``max|ours - theirs| / max(1, max|theirs|)``; 0 where both are empty."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    if theirs.size == 0:
        return 0.0
    return float(np.max(np.abs(ours - theirs)) / max(1.0, np.max(np.abs(theirs))))


def compare(subject, case, *fields, clause="BN-NORM-1", outcome=None):
    """Compare a subject's results with the exact answer; a violation of any clause is raised, not the check's alone."""
    from bnspec_conformance.trials.trial import Trial

    trial = Trial(subject, (clause,))
    trial.agree(case, *fields, outcome=outcome)
    for violation in trial.found:
        raise violation
