"""bnspec's own functions compiled by `jax.jit` as a subject.

All arrays are traced, the configuration is static; `jax.jit` keeps one program for each configuration, set of arrays
and shapes. Ranks are lanes of one `jax.vmap` inside the program, joined by `bnspec_backends.ranks.AxisCommunicator`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

import bnspec
from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.layout import layouts
from bnspec_conformance.cases.limits import REFUSED
from bnspec_conformance.cases.scope import Scope, needs
from bnspec_conformance.subjects.frameworks.jax.jax_common import RANKS, dtypes, full_mask, parameters, put, stack
from bnspec_conformance.subjects.own.backends import _run, asked_count

__all__ = ["Compiled", "asked", "jax_jit"]


def jax_jit() -> "Compiled":
    """bnspec compiled by `jax.jit`, in whatever precision JAX is configured for."""
    backend = bnspec.get_backend("jax")
    wide = "float64" in backend.dtypes()
    refused = tuple(clause for clause in REFUSED if clause != "BN-RUN-14")  # no value can be looked at in a trace
    return Compiled(
        Scope(dtypes=dtypes(), ragged=False, same_bits=False, refuses=refused),
        backend.version(),
        "float64" if wide else "float32",
    )


@dataclasses.dataclass
class Compiled:
    """One compiled program per configuration and shapes."""

    scope: Scope
    library: str
    arithmetic: Literal["float64", "twofold", "float32"]
    name: str = "jax-jit"
    evaluation: Evaluation = dataclasses.field(default_factory=dict)
    bound: Literal["strict", "plain"] = "strict"
    flushes: bool = True  # XLA does on the CPU
    examples: int = 3  # nearly every case is compiled
    dialect: str | None = "bnspec"
    backend: None = None

    def version(self) -> str:
        """Return the versions of bnspec and JAX."""
        return f"bnspec {bnspec.__version__} compiled by JAX {self.library}"

    def supports(self, case: Case) -> str | None:
        """Return a reason for ranks of several shapes and for refusals by value, which a trace does not know."""
        return self.scope.reason(case) or _refused_for_a_value(case)

    def run(self, case: Case) -> Outcome:
        """Compile the case, unless one like it was, and run it."""
        world = len(case.ranks)
        given = {name: _stacked([getattr(r, name) for r in case.ranks]) for name in ("x", "dy", "xdot")}
        masked = any(r.mask is not None for r in case.ranks)
        given["mask"] = stack([full_mask(r, case) for r in case.ranks]) if masked else None
        for name in ("dmean", "dvar"):
            each = getattr(case, name)
            given[name] = None if each is None else stack(list(each))
        shared = tuple({name: put(v) for name, v in each.items()} for each in parameters(case))
        state = None if case.state is None else {name: put(v) for name, v in case.state.items()}
        found = _program(self._compute)(case.config, case.mode, case.update, world, given, shared, state)
        return Outcome(tuple(_rank(found, i, case) for i in range(world)))

    @staticmethod
    def _compute(*asked_for: Any) -> dict[str, Any]:
        """Compute everything a case asks for; a subclass does it inside of other transformations."""
        return _by_lanes(*asked_for)


@functools.cache
def _program(compute: Callable[..., dict[str, Any]]) -> Any:
    """Return the function that compiles; made once, for it owns what was compiled."""
    import jax

    return jax.jit(compute, static_argnums=(0, 1, 2, 3))


def _by_lanes(
    config: bnspec.BatchNormConfig, mode: str, update: bool, world: int,
    given: dict[str, Any], shared: tuple[dict[str, Any], ...], state: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything a case asks for; `given` has the ranks in front where there are several."""
    import jax

    one = functools.partial(asked, config, mode, update, world, shared=shared, state=state)
    return one(given) if world == 1 else jax.vmap(one, axis_name=RANKS)(given)


def asked(
    config: bnspec.BatchNormConfig, mode: str, update: bool, world: int, given: dict[str, Any], *,
    shared: tuple[dict[str, Any], ...], state: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that a case asks of one rank, whose arrays are given; the ranks are along the axis `RANKS`."""
    from bnspec_backends.ranks import AxisCommunicator

    params, dots = ((each.get("gamma"), each.get("beta")) for each in shared)
    result = _run(
        config, mode, update, AxisCommunicator(RANKS) if world > 1 else None,
        given["x"], given["dy"], given["mask"], given["xdot"],
        bnspec.Params(*params), None if state is None else bnspec.RunningState(**state),
        dots, (given["dmean"], given["dvar"]),
    )  # fmt: skip
    if result["state"] is not None:
        result["state"] = {k: v for k, v in result["state"]._asdict().items() if v is not None}
    return result


def _stacked(arrays: list[Array | None]) -> Any:
    """Return the arrays of all ranks, absent only where all are."""
    there = [a for a in arrays if a is not None]
    return stack(there) if len(there) == len(arrays) else None


def _rank(found: dict[str, Any], number: int, case: Case) -> RankOutcome:
    world = len(case.ranks)

    def take(values: Any) -> Any:
        return None if values is None else np.array(values if world == 1 else values[number])

    state = found["state"]
    kept = None if state is None else {name: take(v) for name, v in state.items()}
    results = {name: take(v) for name, v in found.items() if name != "state"}
    return RankOutcome(state=kept, **results | {"count": asked_count(results["count"], case)})


def _refused_for_a_value(case: Case) -> str | None:
    config = case.config
    if "running" not in needs(case):
        return None
    # From 1e18 on a variance may be more than a float32 state holds, which counts as not finite.
    plain = all((np.abs(r.x.astype("float64")) < 1e18).all() for r in case.ranks)
    if config.nonfinite == "raise" and not plain:
        return 'nothing can be raised for a value while JAX traces, so nonfinite="raise" propagates [BN-RUN-10]'
    if config.single_value == "raise" and config.correction:
        try:
            folded = [at.fold(full_mask(r, case, always=True)) for r, at in zip(case.ranks, layouts(case))]
        except ValueError:  # refused for its shapes, and that while tracing too
            return None
        counts = np.sum([mask.sum(axis=2) for mask in folded], axis=0)
        if ((counts > 0) & (counts <= config.correction)).any():
            return 'a count is a value while JAX traces, so single_value="raise" makes NaN [BN-RUN-4]'
    return None
