"""The bounds of a port whose declarations the files do not foresee: W of two float32, E, the plain bound, flushing.

The files hold the specification's bounds. A wider one follows from the case and from what is declared, by the analysis
that `bnspec_conformance run` judges by, so that both say the same of one implementation.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds import bounds
from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.oracle import exact
from bnspec_conformance.vectors.expected import flattened
from bnspec_conformance.vectors.hex import rounded_up
from bnspec_conformance.vectors.run import case_of

__all__ = ["STRICT", "wider_bounds"]

Floats = npt.NDArray[np.float64]

#: Clauses that count roundoffs: no declaration widens them.
STRICT = frozenset({"BN-MOM-8", "BN-NORM-3", "BN-GRAD-8"})


def wider_bounds(
    value: dict[str, Any],
    arithmetic: Literal["float64", "twofold", "float32"],
    *,
    evaluation: Evaluation | None = None,
    plain: bool,
    flushes: bool,
) -> list[dict[str, Floats]]:
    """Return the bounds of every output of every rank, by name as `flattened` has them.

    Parameters
    ----------
    value : dict
        A case of the vectors that has outputs.
    arithmetic : {"float64", "twofold", "float32"}
    evaluation : Evaluation, optional
    plain : bool
        Whether the mean is one number of the arithmetic, and y may be x*scale + shift.
    flushes : bool
        Whether subnormal numbers count as 0.
    """
    case = case_of(value)
    answer = exact(case)
    within = bounds(case, answer, arithmetic, flushes, evaluation=evaluation, plain=plain)
    found = []
    for rank, reference in zip(within.ranks, answer.ranks):
        shapes = {name: values.shape for name, values in flattened(reference).items()}
        limits = flattened(rank)
        found.append({name: _up(np.broadcast_to(limits[name], shape)) for name, shape in shapes.items()})
    return found


def _up(bound: npt.NDArray[Any]) -> Floats:
    return np.array([rounded_up(float(v)) for v in bound.ravel()], dtype=np.float64).reshape(bound.shape)
