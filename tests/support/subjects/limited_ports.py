"""Right ports with the limits that layers commonly have: what lies beyond a limit raises, as it does in a library."""

import dataclasses
from collections.abc import Callable, Mapping

from bnspec_conformance import Case, Outcome, find_subject
from bnspec_conformance.cases.counts import counts_of
from bnspec_conformance.cases.limits import empty_extents
from bnspec_conformance.cases.scope import PROFILES, Scope

__all__ = ["LIMITS", "Limited", "limited"]


@dataclasses.dataclass
class Limited:
    """bnspec's numbers by the specification's formulas, but for the cases that `refuses` names."""

    name: str
    scope: Scope
    refuses: Callable[[Case], bool]
    examples: int = 12
    backend: None = None

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason, and nothing of the limit itself."""
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the case, unless it is beyond the limit."""
        if self.refuses(case):
            raise ValueError("beyond the limit")
        return find_subject("numpy-specification").run(case)


def _one_value(case: Case) -> bool:
    return case.mode == "batch" and 1 in counts_of(case)


def _parameters(case: Case) -> list[str]:
    arrays = (case.gamma, case.beta, case.gamma_dot, case.beta_dot)
    return [array.dtype.name for array in arrays if array is not None]


#: By the words that say it in a scope: what raises.
LIMITS: Mapping[str, tuple[dict[str, object], Callable[[Case], bool]]] = {
    "two values": ({"min_count": 2}, _one_value),
    "no gradient in inference": (
        {"inference_grad": False},
        lambda case: case.mode == "inference" and any(r.dy is not None for r in case.ranks),
    ),
    "parameters of x": (
        {"parameter_dtypes": ("x",)},
        lambda case: not set(_parameters(case)) <= {case.ranks[0].x.dtype.name},
    ),
    "parameters of float32": (
        {"parameter_dtypes": ("float32",)},
        lambda case: not set(_parameters(case)) <= {"float32"},
    ),
    "affine": ({"affine": "together"}, lambda case: case.config.center != case.config.scale),
    "samples": ({"nonempty": ("samples",)}, lambda case: "samples" in empty_extents(case)),
    "spatial": ({"nonempty": ("spatial",)}, lambda case: "spatial" in empty_extents(case)),
    "channels": ({"nonempty": ("channels",)}, lambda case: "channels" in empty_extents(case)),
}


def limited(limit: str, *, declared: bool = True, **more: object) -> Limited:
    """The port with that limit; without `declared` its scope says nothing of it."""
    words, refuses = LIMITS[limit]
    fields = {"dtypes": ("float32", "float64", "float16"), "profiles": frozenset(PROFILES), **more}
    return Limited(limit, Scope(**(fields | (words if declared else {}))), refuses)  # type: ignore[arg-type]
