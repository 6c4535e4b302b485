"""Form of an outcome: its types, its shapes, and the results that the subject's scope promised."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope

__all__ = ["Complaint", "complaints"]

_LIKE_X = ("y", "dx", "ydot")


@dataclasses.dataclass(frozen=True)
class Complaint:
    """Fault in the form of an outcome.

    Attributes
    ----------
    problem : str
    output : str
        Which output it is about, with its rank; empty for the outcome as a whole.
    rank : int
    clause : str
        The clause that it breaks, where that is not the output's own.
    """

    problem: str
    output: str = ""
    rank: int = 0
    clause: str = ""


def complaints(outcome: Any, case: Case, scope: Scope, given: Sequence[Array]) -> list[Complaint]:
    """Return all that is wrong with the form of an outcome.

    Parameters
    ----------
    outcome : Any
        The result of ``run``.
    case : Case
    scope : Scope
        Promises the outputs that must be there, if it is declared.
    given : sequence of array
        The case's arrays, with which no result may share its memory.
    """
    if not isinstance(outcome, Outcome) or not isinstance(outcome.ranks, tuple | list):
        return [Complaint(f"run returned {type(outcome).__name__}; expected an Outcome with a tuple of RankOutcome")]
    if len(outcome.ranks) != len(case.ranks):
        return [Complaint(f"run returned the results of {len(outcome.ranks)} ranks; expected {len(case.ranks)}")]
    found = []
    for number, (rank, inputs) in enumerate(zip(outcome.ranks, case.ranks)):
        if not isinstance(rank, RankOutcome):
            return [Complaint(f"rank {number} is {type(rank).__name__}; expected RankOutcome")]
        owed = scope.owes(case, inputs) if scope.declared else ()
        for field in dataclasses.fields(rank):
            name, value = field.name, getattr(rank, field.name)
            if value is None:
                if name in owed:
                    found.append(Complaint(f"returned no {name}, which its scope promises", name, number))
                continue
            problem = _state(value) if name == "state" else _array(name, value, case, inputs.x.shape)
            if problem is not None:
                found.append(Complaint(problem, name, number))
            elif name in _LIKE_X and any(np.may_share_memory(value, array) for array in given):
                text = f"{name} shares its memory with an array that was given [BN-SHAPE-3]"
                found.append(Complaint(text, name, number, "BN-SHAPE-3"))
    return found


def _array(name: str, value: Any, case: Case, x: tuple[int, ...]) -> str | None:
    if not isinstance(value, np.ndarray):
        return f"{name} is {type(value).__name__}; expected a NumPy array"
    if value.dtype.kind in "OSUMmc":
        return f"{name} has dtype {value.dtype}; expected real numbers"
    channels, groups = (case.channels,), (case.groups,)
    want = {
        "count": (*groups, *channels) if case.counts_channels else groups,
        "dgamma": channels,
        "dbeta": channels,
    } | dict.fromkeys(_LIKE_X, x)
    shape = want.get(name, (*groups, *channels))
    return None if value.shape == shape else f"{name} has shape {value.shape}, expected {shape}"


def _state(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f"state is {type(value).__name__}; expected a dict of arrays"
    for key, array in value.items():
        if not isinstance(array, np.ndarray):
            return f"state.{key} is {type(array).__name__}; expected a NumPy array"
    return None
