"""Placing of a case's arrays in memory, as bnspec's backends and other subjects are given them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome
from bnspec_conformance.cases.inputs.memory import PLAIN, arranged, arrays_of, placed
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.trial import NeverSupported, Trial

__all__ = ["library_of", "run_placed", "run_shared"]


def library_of(subject: Subject) -> str | None:
    """Return the name of bnspec's backend, or None for a subject that is given NumPy arrays.

    Raises
    ------
    NeverSupported
        If arrays do not reach the subject as they lie in memory.
    """
    if subject.backend is None:
        if not getattr(subject, "in_process", True):
            raise NeverSupported("it is another process: the values of arrays travel there, not their layout in memory")
        return None
    name = str(subject.backend.name)
    if name == "jax":
        raise NeverSupported("JAX arrays have no strides")
    return name


def run_placed(t: Trial, case: Case, layouts: Mapping[str, str]) -> Outcome:
    """Run a case with each array in the layout of its role; nothing that was given may be written."""
    if t.subject.backend is None:
        return t.run(arranged(case, layouts))
    kinds = {id(v): layouts.get(role, PLAIN) for role, arrays in arrays_of(case).items() for v in arrays}
    put = t.subject.backend.asarray
    return _run_with(t, case, lambda values: placed(values, kinds.get(id(values), PLAIN), put))


def run_shared(t: Trial, case: Case) -> Outcome:
    """Run a case whose arrays may be the same memory, so that the subject's arrays are the same memory too."""
    backend = t.subject.backend
    if backend is None:
        return t.run(case)
    return _run_with(t, case, (lambda values: values) if backend.name == "numpy" else backend.asarray)


class _Placing:
    """A backend that makes its arrays in a given way, and one array of one array."""

    def __init__(self, backend: Any, put: Callable[[Array], Any]) -> None:
        self._backend, self._put = backend, put
        self.made: dict[int, tuple[Array, Any, bytes]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def asarray(self, values: Array) -> Any:
        """Return the array that stands for this one."""
        if id(values) not in self.made:
            made = self._put(values)
            assert tuple(made.shape) == values.shape
            self.made[id(values)] = values, made, self._bytes(made)
        return self.made[id(values)][1]

    def written(self) -> bool:
        """Return whether an array has other values than when it was made."""
        return any(self._bytes(made) != before for _, made, before in self.made.values())

    def _bytes(self, made: Any) -> bytes:
        return np.asarray(self._backend.to_numpy(made)).tobytes()


def _run_with(t: Trial, case: Case, put: Callable[[Array], Any]) -> Outcome:
    placing = _Placing(t.subject.backend, put)
    other = t.beside(backend=placing)
    outcome = other.run(case)
    t.absorb(other)
    t.require(not placing.written(), "an array that was given has changed", case, proves=("BN-SHAPE-3",))
    if placing.name == "numpy":
        x = placing.made.get(id(case.ranks[0].x))
        for name in ("y", "dx", "ydot"):
            got = getattr(outcome.ranks[0], name)
            if x is not None and got is not None and got.dtype != x[1].dtype:
                problem = f"{name} is {got.dtype.str} and x {x[1].dtype.str}"
                t.breach(problem, case, output=name, proves=("BN-SHAPE-3",))
    return outcome
