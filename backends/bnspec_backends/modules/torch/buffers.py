"""Running statistics as buffers of a module of torch: made, read, moved, reset and converted."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bnspec import BatchNormConfig, Moments, RunningState, init, update_running
from bnspec._errors import refusal
from bnspec_backends.modules.torch.options import Options, configuration

__all__ = ["COUNTED", "RunningBuffers", "config_of", "state_of", "write_state"]

#: Averages that count by channel, which num_batches_tracked does not.
COUNTED = ("debiased", "pooled")

#: Buffers beside torch's own, for the fields of the running state that torch has not.
_EXTRAS = ("stddev", "renorm_mean", "renorm_stddev")


def config_of(module: _BatchNorm) -> BatchNormConfig:
    """Return the configuration with which bnspec's functions compute what a module of ours or torch's computes."""
    if isinstance(module, RunningBuffers):
        return module.config
    exist: Any = (module.weight is not None, module.bias is not None)
    return configuration(1, module.eps, module.momentum, *exist, tuple(vars(Options()).values()))


def state_of(module: _BatchNorm, config: BatchNormConfig) -> RunningState:
    """Return the buffers of a module as a running state; torch's own may hold them in 16 bits."""
    own: Any = module._buffers
    count = own.get("running_count")
    if config.averaging == "cumulative" and module.num_batches_tracked is None:
        raise refusal(
            ValueError,
            "BN-RUN-2",
            got=f"{type(module).__name__} with momentum=None and num_batches_tracked=None",
            expected="the number of batches that the cumulative average is of",
            do="Set num_batches_tracked to a tensor, or momentum to a number.",
        )
    if config.averaging == "cumulative":
        count = own["num_batches_tracked"].expand(module.num_features)
    elif config.averaging == "exponential":
        count = None
    extras = [own.get(f"running_{name}") for name in _EXTRAS] if config.renorm is not None else ()
    mean, var = (
        v.float() if v is not None and v.element_size() < 4 else v for v in (own["running_mean"], own["running_var"])
    )
    return RunningState(mean, var, count, *extras)


def write_state(module: _BatchNorm, state: RunningState, config: BatchNormConfig) -> None:
    """Write a running state into the buffers of a module, of ours or of torch's, which stay the tensors they are."""
    with torch.no_grad():
        if config.averaging == "cumulative" and module.num_features:
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.copy_(state.count[0])
        for name, value in zip(RunningState._fields, state, strict=True):
            if value is not None and not (name == "count" and config.averaging == "cumulative"):
                getattr(module, f"running_{name}").copy_(value)


class RunningBuffers(_BatchNorm):
    """The part of a module that keeps its running state in torch's buffers, and in others where torch has none."""

    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    running_count: Any

    @property
    def config(self) -> BatchNormConfig:
        """The configuration with which bnspec's functions compute what this module computes."""
        found: BatchNormConfig = vars(self)["_config"]
        return found

    @property
    def _tracked(self) -> bool:
        """State that there are running statistics; half of them is refused by those who read them."""
        return self.running_mean is not None or self.running_var is not None

    def _make_buffers(self, config: BatchNormConfig) -> None:
        """Make the buffers that a configuration needs beside torch's own, which stay as they are."""
        self._widen_buffers()
        _, fresh = init(config, channels=self.num_features, like=self.running_mean)
        if config.renorm is not None:  # of a trained module: what its averages would be
            stddev = (self.running_var + config.epsilon).sqrt()
            learned = {"stddev": stddev, "renorm_mean": self.running_mean.clone(), "renorm_stddev": stddev.clone()}
            batches = self.num_batches_tracked
            trained = batches is not None and not batches.is_meta and bool(batches)
            fresh = fresh._replace(**{k: v for k, v in learned.items() if trained and getattr(fresh, k) is not None})
        if config.averaging in COUNTED:
            self.register_buffer("running_count", fresh.count)
        for name in _EXTRAS:
            if (value := getattr(fresh, name)) is not None:
                self.register_buffer(f"running_{name}", value)
        if config.averaging == "debiased":
            self.running_var.zero_()

    def _state(self, config: BatchNormConfig) -> RunningState:
        """Return the buffers as a running state."""
        return state_of(self, config)

    def _move(self, state: RunningState, stats: Moments, config: BatchNormConfig) -> None:
        """Write the state after one batch into the buffers, or nothing where it is refused."""
        new = update_running(state, stats, config, name=type(self).__name__)
        write_state(self, new, config)
        counted = config.averaging == "cumulative" and self.num_features  # there it is the count of the state
        if self.num_batches_tracked is not None and not counted:  # torch's modules do without it too
            with torch.no_grad():
                self.num_batches_tracked.add_(1)

    def reset_running_stats(self) -> None:
        """Set the running statistics to those before the first batch."""
        super().reset_running_stats()
        if "_config" not in vars(self) or self.running_mean is None:  # the first: torch's constructor
            return
        _, fresh = init(self.config, channels=self.num_features, like=self.running_mean)
        for name in ("count", *_EXTRAS):
            if (buffer := self._buffers.get(f"running_{name}")) is not None:
                buffer.copy_(getattr(fresh, name))
        if self.running_var is not None:
            self.running_var.copy_(fresh.var)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._widen_buffers(before)
        return self

    def _load_from_state_dict(self, *given: Any, **more: Any) -> None:
        super()._load_from_state_dict(*given, **more)
        self._widen_buffers()  # load_state_dict(..., assign=True) takes the tensors that it is given

    def _widen_buffers(self, before: dict[str, torch.Tensor | None] | None = None) -> None:
        """Keep statistics in float32 where the module goes to 16 bits [BN-PREC-1], with the digits they had."""
        for name, buffer in self._buffers.items():
            if buffer is None or buffer.dtype not in (torch.float16, torch.bfloat16):
                continue
            source = (before or {}).get(name)
            source = buffer if source is None or source.is_meta else source
            self._buffers[name] = source.to(device=buffer.device, dtype=torch.float32)
