"""bnspec's modules for torch as a subject: `bnspec.torch.BatchNorm`, differentiated by torch in both modes.

Parameters go in as a module's own, the running state as its buffers, so that what is put to the test is what a model
trains with; several ranks are threads, and their gradients go through the messages that join the statistics.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

import bnspec
from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.cases.scope import PROFILES, Scope, needs
from bnspec_conformance.subjects.frameworks.torch.torch_common import from_torch, gradients, tangent, to_torch
from bnspec_conformance.subjects.own.backends import cpu_evaluation
from bnspec_conformance.subjects.own.rank_pool import RankPool, ThreadRankPool

__all__ = ["TorchModule", "torch_module"]

#: The fields of a running state, and the module's buffers.
_BUFFERS = {
    "mean": "running_mean",
    "var": "running_var",
    "stddev": "running_stddev",
    "renorm_mean": "running_renorm_mean",
    "renorm_stddev": "running_renorm_stddev",
}


#: Fields of the configuration that a module takes by their own names.
_OPTIONS = ("virtual_batch_size", "ghost_source", "renorm", "correction", "sync_weighting", "single_value", "nonfinite")


@dataclasses.dataclass
class TorchModule:
    """`bnspec.torch.BatchNorm`, built for each case."""

    name: str = "torch-module"
    arithmetic: Literal["float64", "float32"] = "float64"
    evaluation: Evaluation = dataclasses.field(default_factory=dict)
    bound: Literal["strict", "plain"] = "strict"
    flushes: bool = False
    examples: int = 20
    dialect: str | None = "bnspec"
    backend: None = None
    pool: RankPool = dataclasses.field(default_factory=ThreadRankPool)

    @property
    def scope(self) -> Scope:
        """All but the statistics of a batch, which a module does not return."""
        profiles = frozenset(PROFILES) - {"statistics", "cotangents"}
        return Scope(profiles=profiles, dtypes=("bfloat16", "float16", "float32", "float64"))

    def version(self) -> str:
        """Return bnspec's version and torch's."""
        return f"bnspec {bnspec.__version__} on {bnspec.get_backend('torch').name} {_torch().__version__}"

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason; besides, channels share one counter where torch's own counter is all there is."""
        counts = (case.state or {}).get("count")
        if case.config.averaging == "cumulative":
            if counts is not None and np.unique(counts).size > 1:
                return "it has one counter for all channels"
            if case.counts_channels:
                return "it has no masks with the channels' extent for one counter"
            if case.config.nonfinite == "skip" and "running" in needs(case):
                return "it skips no single channels for one counter"
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the case on as many ranks as it has; once more, on modules of their own, where tangents are asked for."""
        found = self._on_ranks(case, _backward)
        if case.has_jvp:
            from torch.autograd import forward_ad

            with forward_ad.dual_level():
                pushed = self._on_ranks(case, _forward_mode)
            found = [dataclasses.replace(one, ydot=ydot) for one, ydot in zip(found, pushed, strict=True)]
        return Outcome(tuple(found))

    def _on_ranks(self, case: Case, ask: Callable[[Case, RankInputs, Any], Any]) -> list[Any]:
        if len(case.ranks) == 1:
            return [ask(case, case.ranks[0], None)]
        return self.pool.run(len(case.ranks), lambda comm: ask(case, case.ranks[comm.rank], comm), deadline=60.0)


def _backward(case: Case, rank: RankInputs, comm: Any) -> RankOutcome:
    """Run one rank's module, and differentiate it in reverse mode where gradients are asked for."""
    module = _module(case, comm)
    found: dict[str, Array] = {}
    call, given = _call(module, rank), _given(case, rank)
    if rank.dy is not None:
        y, found = gradients(call, given, to_torch(rank.dy))
    else:
        y = call(given)
    state = _state(case, module) if "running" in needs(case) else None
    return RankOutcome(y=from_torch(y), state=state, **found)


def _forward_mode(case: Case, rank: RankInputs, comm: Any) -> Array:
    """Return the tangent of y, of a module of its own."""
    dots = {"gamma": case.gamma_dot, "beta": case.beta_dot, "x": rank.xdot}
    pushed = {name: to_torch(v) for name, v in dots.items() if v is not None}
    return from_torch(tangent(_call(_module(case, comm), rank), _given(case, rank), pushed))


def _given(case: Case, rank: RankInputs) -> dict[str, Any]:
    """Return x, and the parameters that exist."""
    given = {"x": to_torch(rank.x)}
    for name, exists, default in (("gamma", case.config.scale, 1.0), ("beta", case.config.center, 0.0)):
        if exists:
            given[name] = _parameter(case, getattr(case, name), default)
    return given


def _call(module: Any, rank: RankInputs) -> Any:
    """Return the module as a function of x and its parameters."""
    torch, mask = _torch(), None if rank.mask is None else to_torch(rank.mask)

    def call(given: Mapping[str, Any]) -> Any:
        names = {"gamma": "weight", "beta": "bias"}
        params = {name: given[ours] for ours, name in names.items() if ours in given}
        return torch.func.functional_call(module, params, (given["x"],), {"mask": mask})

    return call


def _module(case: Case, comm: Any) -> Any:
    """Return the module that a case describes, with its running state."""
    import bnspec.torch

    config, tracks = case.config, case.state is not None
    cumulative = config.averaging == "cumulative"
    module: Any = bnspec.torch.BatchNorm(
        case.channels,
        eps=config.epsilon,
        momentum=None if cumulative else 1.0 - config.decay,
        track_running_stats=tracks,
        axis=config.axis,
        sync=comm,
        averaging="exponential" if cumulative else config.averaging,
        **{name: getattr(config, name) for name in _OPTIONS},
    )
    for name, exists in (("weight", config.scale), ("bias", config.center)):
        if not exists:
            setattr(module, name, None)
    for name, values in (case.state or {}).items():
        if name != "count":
            setattr(module, _BUFFERS[name], to_torch(values))
        elif cumulative:
            module.num_batches_tracked = _torch().tensor(int(values[0]) if values.size else 0)
        else:
            module.running_count = to_torch(values)
    return module.train(case.mode == "batch")


def _state(case: Case, module: Any) -> dict[str, Array]:
    """Return the running state that a module holds."""
    kept = {name: from_torch(getattr(module, _BUFFERS[name])) for name in case.state or {} if name != "count"}
    if case.config.averaging == "cumulative":
        kept["count"] = np.full(case.channels, from_torch(module.num_batches_tracked))
    elif case.config.counts_updates:
        kept["count"] = from_torch(module.running_count)
    return kept


def _parameter(case: Case, values: Array | None, default: float) -> Any:
    """Return a parameter with the case's values, or one of the statistics dtype of x."""
    wide = case.ranks[0].x.dtype == np.float64
    return to_torch(np.full(case.channels, default, "float64" if wide else "float32") if values is None else values)


def _torch() -> Any:
    import torch

    return torch


def torch_module() -> TorchModule:
    """bnspec's modules for torch, on the CPU."""
    _torch()  # what is missing shows here and not in the first case
    return TorchModule(evaluation=cpu_evaluation())
