"""Scope of a subject: the profiles, dtypes, ranks, axes and options that it declares.

A scope is a promise. Cases are drawn inside it, so that none is wasted; what lies outside is "not supported",
never a pass; and a result that a declared profile owes and that does not come back is a failure.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bnspec._clauses import clauses
from bnspec_conformance.cases import limits
from bnspec_conformance.cases.case import Case, RankInputs, RankOutcome

__all__ = ["LAYER", "PROFILES", "Scope", "about", "needs"]

#: The parts of the specification that a subject may have or lack, each with what it adds.
PROFILES: Mapping[str, str] = {
    "core": "y by batch statistics",
    "statistics": "the batch's count, mean and variance are returned",
    "running": "the running state after a training call",
    "inference": "y by running statistics",
    "grad": "gradients: dx, dgamma, dbeta",
    "jvp": "tangents (forward mode)",
    "cotangents": "gradients through the returned mean and variance",
    "ghost": "virtual batches",
    "renorm": "batch renormalization",
    "mask": "masks",
    "sync": "several ranks share their statistics",
}

_FIELDS = {"y": "core", "state": "running", **dict.fromkeys(("count", "mean", "mean_low", "var"), "statistics")}
_FIELDS |= dict.fromkeys(("dx", "dgamma", "dbeta"), "grad") | dict.fromkeys(("ydot", "mean_dot", "var_dot"), "jvp")

#: The word for bnspec's own layers, names and files, about which no port is asked; the checks see to that.
LAYER = "layer"


def about(clause: str) -> tuple[str, ...]:
    """Return the profiles without which a subject cannot be asked about a clause, as SPEC.md has them.

    "core" is none of them: what is said of every port also holds for one that has inference alone.
    """
    return tuple(name for name in clauses()[clause].profiles if name not in ("core", LAYER))


def needs(case: Case) -> frozenset[str]:
    """Return the profiles a case calls for."""
    config, inference = case.config, case.mode == "inference"
    wanted = {
        "core": not inference,
        "inference": inference,
        "running": case.state is not None and case.update and not inference,
        "grad": any(r.dy is not None for r in case.ranks),
        "jvp": case.has_jvp,
        "cotangents": case.dmean is not None or case.dvar is not None,
        "ghost": config.virtual_batch_size is not None and not inference,
        "renorm": config.renorm is not None,
        "mask": any(r.mask is not None for r in case.ranks),
        "sync": len(case.ranks) > 1,
    }
    return frozenset(name for name, needed in wanted.items() if needed)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A subject's declared capabilities.

    Attributes
    ----------
    profiles : frozenset of str
        Of `PROFILES`.
    dtypes : tuple of str
        Of x: float16, bfloat16, float32, float64.
    ndims : tuple of int
        Ranks of x that it takes.
    axes : {"any", "first", "last"}
        Where the channel axis may be: anywhere, on axis 1, or last.
    world : int
        Most ranks it can run; 1 without "sync".
    ragged : bool
        Whether ranks may differ in shape.
    options : mapping of str to tuple
        Fields of the configuration, "renorm.form" and "mask.channels" (whether a mask may have the channels' extent),
        that can take only some values, with those values. They restrict only the cases in which the field has a
        meaning: correction, say, those that update a state.
    declared : bool
        False for a subject that says nothing of itself: a result that does not come back is then "not supported".
    min_count : int
        Values per channel below which training is refused, with an update or without; 2 for many layers. 0 is never
        among them: that is a matter of `nonempty`.
    inference_grad : bool
        False for a subject that differentiates in training only.
    parameter_dtypes : tuple of str
        Dtypes of gamma and beta: of float16, bfloat16, float32 and float64, "x" for that of x, and "statistics" for
        float64 beside a float64 x and float32 beside every other.
    affine : {"separate", "together"}
        Whether gamma and beta may be there one without the other.
    nonempty : tuple of str
        Extents that may not be 0: "samples", "spatial" (any other axis) and "channels".
    same_bits : bool
        False where each shape is a program of its own, whose compiler orders the sums as suits it, so that a group
        need not have the bits that its samples have alone.
    refuses : bool or tuple of str
        Whether it refuses what the specification has refused: all of `limits.REFUSED`, or the clauses named.
    """

    profiles: frozenset[str] = frozenset(PROFILES)
    dtypes: tuple[str, ...] = ("float32", "float64")
    ndims: tuple[int, ...] = (2, 3, 4, 5)
    axes: Literal["any", "first", "last"] = "any"
    world: int = 4
    ragged: bool = True
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    declared: bool = True
    min_count: int = 1
    inference_grad: bool = True
    parameter_dtypes: tuple[str, ...] = limits.FLOATS
    affine: Literal["separate", "together"] = "separate"
    nonempty: tuple[str, ...] = ()
    same_bits: bool = True
    refuses: bool | tuple[str, ...] = False

    def __post_init__(self) -> None:
        unknown = set(self.profiles) - set(PROFILES)
        if unknown:
            raise ValueError(f"unknown profiles {sorted(unknown)}; expected some of {', '.join(PROFILES)}.")
        if "cotangents" in self.profiles and not {"statistics", "grad"} <= self.profiles:
            raise ValueError("cotangents without statistics and grad; nothing is returned that they belong to.")
        wrong = limits.fault_of(self)
        if wrong is not None:
            raise ValueError(wrong)

    def __contains__(self, profile: str) -> bool:
        return profile in self.profiles

    def lacks(self, clause: str) -> str | None:
        """Return None, or why the subject cannot be asked about a clause."""
        missing = [name for name in about(clause) if name not in self.profiles]
        if missing:
            return f"it has no {missing[0]} ({PROFILES[missing[0]]})"
        if clause == "BN-INF-3" and not self.inference_grad and "jvp" not in self.profiles:
            return limits.NO_INFERENCE_GRAD
        if clause == "BN-GRP-4" and not self.same_bits:
            return limits.OTHER_BITS
        return None

    def returns(self, field: str) -> bool:
        """Return whether a field of an outcome may come back; one that says nothing of itself may return any."""
        return not self.declared or field == "y" or _FIELDS[field] in self.profiles

    def fit(self, case: Case) -> Case:
        """Return the case without the derivatives and the state that the subject does not deal in.

        Parameters of a dtype that they do not have there are rounded to one that they have.
        """
        lacks = set(PROFILES) - self.profiles
        case = limits.with_parameters(case, self.parameter_dtypes)
        if case.mode == "inference" and not self.inference_grad:
            lacks.add("grad")
        change: dict[str, Any] = {}
        if lacks & {"grad", "jvp"}:
            change["ranks"] = tuple(
                RankInputs(r.x, None if "grad" in lacks else r.dy, r.mask, None if "jvp" in lacks else r.xdot)
                for r in case.ranks
            )
        if "jvp" in lacks:
            change |= {"gamma_dot": None, "beta_dot": None}
        if lacks & {"grad", "cotangents"}:
            change |= {"dmean": None, "dvar": None}
        if "running" in lacks and case.mode == "batch":
            change |= {"update": False} if case.config.renorm is not None else {"state": None}
        return dataclasses.replace(case, **change) if change else case

    def reason(self, case: Case) -> str | None:
        """Return None, or why the case lies outside."""
        missing = [name for name in PROFILES if name in needs(case) - self.profiles]
        if missing:
            return f"it has no {missing[0]} ({PROFILES[missing[0]]})"
        for rank in case.ranks:
            for array in (rank.x, rank.dy, rank.xdot):
                if array is not None and array.dtype.name not in self.dtypes:
                    return f"it has no {array.dtype.name}"
            if rank.x.ndim not in self.ndims:
                return f"it takes no x of rank {rank.x.ndim}"
        if not self.takes_axis(case.config.axis, case.ranks[0].x.ndim):
            return f"its channels are on the {'axis after the samples' if self.axes == 'first' else 'last axis'}"
        if len(case.ranks) > self.world:
            return f"it runs at most {self.world} ranks"
        if not self.ragged and len({rank.x.shape for rank in case.ranks}) > 1:
            return "its ranks are a mapped axis, so that all have one shape"
        return self.without_option(case) or limits.reason_of(self, case)

    def without_option(self, case: Case) -> str | None:
        """Return None, or which option of a case the subject does not have; also for a case that is to be refused."""
        for name, allowed in self.options.items():
            value = _option(case, name)
            if value is not None and value not in allowed:
                return f"it has no {name}={value!r}"
        return None

    def turns_away(self, clause: str) -> bool:
        """Return whether it says that it refuses what a clause has refused."""
        return self.refuses if isinstance(self.refuses, bool) else clause in self.refuses

    def arrange(self, case: Case) -> Case:
        """Return the case with its channels on an axis that the subject takes: the same numbers in another order."""
        ndim = case.ranks[0].x.ndim
        if self.takes_axis(case.config.axis, ndim):
            return case
        to = 1 if self.axes == "first" else ndim - 1

        def move(array: Any) -> Any:
            return None if array is None else np.ascontiguousarray(np.moveaxis(array, case.config.axis, to))

        ranks = tuple(RankInputs(move(r.x), move(r.dy), move(r.mask), move(r.xdot)) for r in case.ranks)
        return dataclasses.replace(case, ranks=ranks, config=dataclasses.replace(case.config, axis=to))

    def takes_axis(self, axis: int, ndim: int) -> bool:
        """Return whether channels may be on this axis."""
        return self.axes == "any" or axis % ndim == (1 if self.axes == "first" else ndim - 1)

    def owes(self, case: Case, rank: RankInputs) -> tuple[str, ...]:
        """Return the fields of a rank's outcome that a declared subject must return for a case."""
        due = {"core": True, "statistics": case.mode == "batch", "running": "running" in needs(case)}
        due |= {"grad": rank.dy is not None, "jvp": rank.xdot is not None}
        present = {"dgamma": case.config.scale, "dbeta": case.config.center, "count": "statistics" in self.profiles}
        present["mean_low"] = False  # it is welcome, but one number will do
        present["count"] &= case.channels > 0  # counts of no channel may have no element
        present |= dict.fromkeys(("mean_dot", "var_dot"), "statistics" in self.profiles and case.mode == "batch")
        return tuple(
            f.name
            for f in dataclasses.fields(RankOutcome)
            if due[_FIELDS[f.name]]
            and (_FIELDS[f.name] in self.profiles or f.name == "y")
            and present.get(f.name, True)
        )


def _option(case: Case, name: str) -> Any:
    """Return the value of an option in a case, or None where it has no influence on the result."""
    config, asked, inference = case.config, needs(case), case.mode == "inference"
    if name == "renorm.form":
        return None if config.renorm is None else config.renorm.form
    if name == "mask.channels":
        return case.counts_channels if "mask" in asked else None
    matters = {
        "averaging": case.state is not None and (case.update or inference),
        "decay": "running" in asked or (case.state is not None and config.averaging == "debiased"),
        "correction": "running" in asked,
        "single_value": "running" in asked and config.correction == 1,
        "nonfinite": "running" in asked,
        "ghost_source": "running" in asked and "ghost" in asked,
        "sync_weighting": "sync" in asked,
        "virtual_batch_size": "ghost" in asked,
    }
    return getattr(config, name) if matters.get(name, True) else None
