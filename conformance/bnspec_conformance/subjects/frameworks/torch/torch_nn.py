"""torch's own batch normalization as subjects: ``nn.BatchNorm1d/2d/3d`` and ``nn.functional.batch_norm``.

They compute on the CPU, or on the device that their name has: ``torch-nn@device=cuda``.

There are three kernels on the CPU, for contiguous, channels-last and any other memory, so there is a subject for each.

Parameters and running state have the statistics dtype of x, as the layer's are made: 16-bit x meets those in float32,
as under autocast. Derivatives are those of `torch.autograd`: reverse mode, and forward mode on a second call. A layer
whose configuration has no gamma or no beta has None in its place, the value that the layer itself uses for it.

torch refuses one value per channel in training whether or not a running state is to be updated, as the scope says.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope, needs
from bnspec_conformance.subjects.contract import Refused
from bnspec_conformance.subjects.defaults import HasDefaults
from bnspec_conformance.subjects.frameworks.torch import torch_nn_defaults as own
from bnspec_conformance.subjects.frameworks.torch.devices import checked_device, on_device
from bnspec_conformance.subjects.frameworks.torch.torch_common import Forward, from_torch, gradients, tangent, to_torch

__all__ = ["TorchNorm", "channels_last", "functional", "layer", "transposed"]

_PROFILES = frozenset({"core", "running", "inference", "grad", "jvp"})
_DTYPES = ("float32", "float64", "float16", "bfloat16")

#: The layer before its call, and what its running state is after it.
Prepared = tuple[Forward, Callable[[], dict[str, Array]]]


@dataclasses.dataclass
class TorchNorm(HasDefaults):
    """One way to batch normalization in torch.

    Attributes
    ----------
    prepare : callable
        A case to a layer that has not run yet, and to what reads its state afterwards.
    memory : {"contiguous", "channels last", "transposed"}
        How x, dy and the tangent of x lie there.
    device : str
        On which it computes, in torch's words.
    """

    name: str
    prepare: Callable[[Case], Prepared]
    scope: Scope
    memory: Literal["contiguous", "channels last", "transposed"] = "contiguous"
    device: str = "cpu"
    arithmetic: Literal["float64", "float32"] = "float32"
    bound: Literal["strict", "plain"] = "plain"
    flushes: bool = False
    examples: int = 20
    dialect: str | None = "torch"
    backend: None = None

    def version(self) -> str:
        """torch and its version."""
        import torch

        return f"torch {torch.__version__}"

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason; besides, the state has the parameters' dtype, and channels share one counter."""
        for values in (case.state or {}).values():
            if values.dtype.kind != "i" and values.dtype.itemsize > np.dtype(_kept(case)).itemsize:
                return f"its state is {_kept(case)} for this x"
        counts = (case.state or {}).get("count")
        if counts is not None and np.unique(counts).size > 1:
            return "it has one counter for all channels"
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the case once, and once more, on a layer of its own, where tangents are asked for."""
        with on_device(self.device):
            return self._run(case)

    def _run(self, case: Case) -> Outcome:
        rank, config = case.ranks[0], case.config
        given = {"x": self._input(rank.x)}
        if config.scale:
            given["gamma"] = _parameter(case, case.gamma, 1.0)
        if config.center:
            given["beta"] = _parameter(case, case.beta, 0.0)
        call, state = self.prepare(case)
        found: dict[str, Array] = {}
        try:
            if rank.dy is not None:
                y, found = gradients(call, given, self._input(rank.dy))
            else:
                y = call(given)
            if case.has_jvp:
                dots = {"gamma": case.gamma_dot, "beta": case.beta_dot}
                dots = {name: to_torch(v) for name, v in dots.items() if v is not None}
                if rank.xdot is not None:
                    dots["x"] = self._input(rank.xdot)
                found["ydot"] = from_torch(tangent(self.prepare(case)[0], given, dots))
        except (RuntimeError, TypeError, ValueError) as error:  # torch's refusals are of these
            raise Refused(f"{type(error).__name__}: {error}") from error
        kept = state() if "running" in needs(case) else None
        return Outcome((RankOutcome(y=from_torch(y), state=kept, **found),))

    def _input(self, values: Array) -> Any:
        import torch

        tensor = to_torch(values)
        if self.memory == "contiguous":
            return tensor
        if self.memory == "transposed":
            # A part of a larger tensor: alone, one sample would be contiguous and go to another kernel.
            backwards = tuple(range(tensor.ndim))[::-1]
            room = tensor.new_empty((*tensor.shape[:0:-1], tensor.shape[0] + 1))
            part = room.permute(backwards)[: tensor.shape[0]]
            part.copy_(tensor)
            return part
        form = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
        return tensor.contiguous(memory_format=form)


def layer(*, device: str = "cpu") -> TorchNorm:
    """``nn.BatchNorm1d``, ``2d`` or ``3d``, by the rank of x; averaging "cumulative" is ``momentum=None``."""
    return _subject("torch-nn", device)


def functional(*, device: str = "cpu") -> TorchNorm:
    """``nn.functional.batch_norm``, which takes any rank."""
    scope = _scope("exponential", device=checked_device(device))
    return TorchNorm("torch-functional", _function, scope, device=device, defaults=own.on(device, own.FUNCTION))


def channels_last(*, device: str = "cpu") -> TorchNorm:
    """``nn.BatchNorm2d`` and ``3d`` on ``torch.channels_last`` memory."""
    made = _subject("torch-channels-last", device, "channels last")
    return dataclasses.replace(made, scope=dataclasses.replace(made.scope, ndims=(4, 5)))


def transposed(*, device: str = "cpu") -> TorchNorm:
    """``nn.BatchNorm1d``, ``2d`` or ``3d`` on tensors whose axes lie in memory in the opposite order."""
    return _subject("torch-transposed", device, "transposed")


def _subject(
    name: str, device: str, memory: Literal["contiguous", "channels last", "transposed"] = "contiguous"
) -> TorchNorm:
    scope = _scope("exponential", "cumulative", device=checked_device(device))
    return TorchNorm(name, _module, scope, memory, device=device, defaults=own.on(device, own.LAYER))


def _scope(*averaging: str, device: str) -> Scope:
    options = {"correction": (1,), "averaging": averaging, "single_value": ("raise",), "nonfinite": ("propagate",)}
    return Scope(
        profiles=_PROFILES,
        dtypes=tuple(name for name in _DTYPES if name != "float64" or not device.startswith("mps")),
        axes="first",
        world=1,
        options=options,
        min_count=2,
        parameter_dtypes=("statistics",),
    )


def _module(case: Case) -> Prepared:
    """Return the layer for the rank of x."""
    import torch
    from torch import nn

    config, state = case.config, case.state
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[case.ranks[0].x.ndim]
    inference = case.mode == "inference"
    tracks = inference or "running" in needs(case)
    module = kind(
        case.channels,
        eps=config.epsilon,
        momentum=None if config.averaging == "cumulative" else 1 - config.decay,
        track_running_stats=tracks,
    )
    module.train(not inference)
    if tracks and state is not None:
        module.running_mean, module.running_var = (_parameter(case, state[name], 0.0) for name in ("mean", "var"))
        count = state.get("count")
        if count is not None and count.size:
            module.num_batches_tracked = torch.tensor(int(count[0]))

    for name, exists in (("weight", config.scale), ("bias", config.center)):
        if not exists:
            setattr(module, name, None)

    def call(given: Mapping[str, Any]) -> Any:
        names = {"gamma": "weight", "beta": "bias"}
        params = {name: given[ours] for ours, name in names.items() if ours in given}
        return torch.func.functional_call(module, params, (given["x"],))

    def read() -> dict[str, Array]:
        kept = {"mean": from_torch(module.running_mean), "var": from_torch(module.running_var)}
        if config.counts_updates:
            kept["count"] = np.full(case.channels, from_torch(module.num_batches_tracked))
        return kept

    return call, read


def _function(case: Case) -> Prepared:
    """Return the function, with running statistics where they are used or updated."""
    from torch.nn.functional import batch_norm

    config, inference = case.config, case.mode == "inference"
    mean = var = None
    if case.state is not None and (inference or case.update):
        mean, var = (_parameter(case, case.state[name], 0.0) for name in ("mean", "var"))

    def call(given: Mapping[str, Any]) -> Any:
        weight, bias = given.get("gamma"), given.get("beta")
        more: dict[str, Any] = {"training": not inference, "momentum": 1 - config.decay, "eps": config.epsilon}
        return batch_norm(given["x"], mean, var, weight, bias, **more)

    return call, lambda: {"mean": from_torch(mean), "var": from_torch(var)}


def _kept(case: Case) -> str:
    """Return the dtype of the layer's parameters."""
    return "float64" if case.ranks[0].x.dtype == np.float64 else "float32"


def _parameter(case: Case, values: Array | None, default: float) -> Any:
    """Return a parameter of the layer's own dtype, filled with the case's values."""
    return to_torch((np.full(case.channels, default) if values is None else values).astype(_kept(case)))
