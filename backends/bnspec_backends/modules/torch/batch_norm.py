"""Batch normalization as modules of torch: its classes, arguments, buffers and hooks, computing what bnspec specifies.

A module decides which of bnspec's functions run and keeps their state in torch's buffers; all maths is in the
functions. `running_mean`, `running_var` and `num_batches_tracked` mean what they mean in torch, so that state dicts go
both ways.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bnspec import (
    BatchNormConfig,
    Moments,
    Params,
    RunningState,
    batch_norm,
    batch_norm_inference,
    init,
    update_running,
)
from bnspec._context import is_recomputing
from bnspec._errors import refusal
from bnspec._layer.eager import in_backward_of_torch
from bnspec._modes import exporting
from bnspec._torch.calls import by_torch
from bnspec_backends.modules.torch.options import Options, configuration
from bnspec_backends.modules.torch.ranks import Sync

__all__ = ["COUNTED", "BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SpecifiedNorm"]

_NAMES = tuple(f.name for f in fields(Options))

#: Attributes that the configuration is made of.
_CONFIGURED = frozenset({"eps", "momentum", "axis", "weight", "bias", *_NAMES})

#: Averages that count by channel, which num_batches_tracked does not.
COUNTED = ("debiased", "pooled")

#: Buffers beside torch's own, for the fields of the running state that torch has not.
_EXTRAS = ("stddev", "renorm_mean", "renorm_stddev")


class SpecifiedNorm(_BatchNorm):
    """Batch normalization as bnspec specifies it, behind the interface of torch's own modules.

    Parameters
    ----------
    num_features : int
        C, the length of the channel axis.
    eps, momentum, affine, track_running_stats, device, dtype, bias
        As in torch: momentum is the weight of the new value, and None averages all batches alike.
    sync : bool, str, torch.distributed.ProcessGroup or Communicator, optional
        Whose statistics are joined in training: True for all ranks of torch.distributed.
    **options
        Fields of `Options`: virtual_batch_size, ghost_source, renorm, averaging, and more.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        gamma and beta.
    running_mean, running_var : Tensor, shape (C,)
        The running state; float32 also where the module is converted to 16 bits, float64 in a float64 module. Under
        ``averaging="debiased"`` they are the sums that `bnspec.running_statistics` divides.
    num_batches_tracked : Tensor, shape ()
        Training calls so far.
    running_count : Tensor, shape (C,)
        Only under ``averaging="debiased"`` and ``"pooled"``: batches, or elements, that each channel has seen.
    running_stddev, running_renorm_mean, running_renorm_stddev : Tensor, shape (C,)
        Only with renorm.
    virtual_batch_size, ghost_source, renorm, averaging, ..., sync
        The options, which may be set between calls; `renorm` and `averaging` only where that needs no other buffers.

    Raises
    ------
    TypeError, ValueError
        For input and options that break a clause, which the text names; nothing is changed then.

    Notes
    -----
    While torch computes gradients a call can only repeat an earlier one, as `torch.utils.checkpoint` does: it updates
    nothing, so that checkpointed modules move their statistics once a step.

    Differences to torch: batches of one value per channel are refused only where the running variance needs more
    [BN-RUN-4], and an empty batch normalizes to an empty result and moves nothing.
    """

    axis = 1
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    running_count: Any
    frozen: bool
    _sync: Sync
    _check_input_dim: Callable[[torch.Tensor], None]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        sync: Any = None,
        **options: Any,
    ) -> None:
        chosen, shared = Options.of(options, type(self).__name__), Sync(sync)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if affine and not bias:
            self.register_parameter("bias", None)
        self._begin(chosen, shared)

    def _begin(self, options: Options, sync: Sync) -> None:
        """Take the options, and make the buffers that they need; those that are there stay as they are."""
        vars(self).update({name: getattr(options, name) for name in _NAMES}, _sync=sync)
        vars(self)["_config"] = config = self._configured()
        if not isinstance(self.running_mean, torch.Tensor) or torch.nn.parameter.is_lazy(self.running_mean):
            return
        self._widen_buffers()
        _, fresh = init(config, channels=self.num_features, like=self.running_mean)
        if config.renorm is not None:  # of a trained module: what its averages would be
            stddev = (self.running_var + config.epsilon).sqrt()
            learned = {"stddev": stddev, "renorm_mean": self.running_mean.clone(), "renorm_stddev": stddev.clone()}
            trained = not self.num_batches_tracked.is_meta and bool(self.num_batches_tracked)
            fresh = fresh._replace(**{k: v for k, v in learned.items() if trained and getattr(fresh, k) is not None})
        if config.averaging in COUNTED:
            self.register_buffer("running_count", fresh.count)
        for name in _EXTRAS:
            if (value := getattr(fresh, name)) is not None:
                self.register_buffer(f"running_{name}", value)
        if config.averaging == "debiased":
            self.running_var.zero_()

    @property
    def sync(self) -> Any:
        """Whose statistics are joined, as it was given."""
        return self._sync.given

    @sync.setter
    def sync(self, given: Any) -> None:
        vars(self)["_sync"] = Sync(given)

    @property
    def config(self) -> BatchNormConfig:
        """The configuration with which bnspec's functions compute what this module computes."""
        found: BatchNormConfig = vars(self)["_config"]
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; an option that the others exclude is refused, and stays as it was."""
        if name not in _CONFIGURED or "_config" not in vars(self):
            super().__setattr__(name, value)
            return
        before = getattr(self, name)
        super().__setattr__(name, value)
        try:
            vars(self)["_config"] = self._configured()
        except (TypeError, ValueError):
            super().__setattr__(name, before)
            raise

    def _configured(self) -> BatchNormConfig:
        options = tuple([vars(self)[name] for name in _NAMES])
        exist = (self.weight is not None, self.bias is not None)
        return configuration(self.axis, self.eps, self.momentum, *exist, options)

    def forward(self, input: torch.Tensor, mask: Any = None, *, lengths: Any = None) -> torch.Tensor:
        """Normalize, and in training move the running statistics.

        Parameters
        ----------
        input : Tensor, shape (N, ..., C, ...)
            float16, bfloat16, float32 or float64.
        mask : Tensor of bool, optional
            Elements that count, as in `bnspec.batch_norm`; without effect on running statistics [BN-INF-2].
        lengths : Tensor of int, shape (N,), optional
            The same for padded sequences.
        """
        if isinstance(input, torch.fx.Proxy):  # a module of torch.nn is one node of its graphs, and so is this one
            return _leaf(self, (input, mask), {"lengths": lengths})
        self._check_input_dim(input)
        if input.shape[self.axis] != self.num_features:
            raise refusal(
                ValueError,
                "BN-SHAPE-4",
                got=f"input of shape {tuple(input.shape)}, with {input.shape[self.axis]} channels on axis {self.axis}",
                expected=f"num_features={self.num_features} channels",
                do=f"Build {type(self).__name__}({input.shape[self.axis]}), or move the channels to axis {self.axis}.",
            )
        config, params = self.__dict__["_config"], Params(self.weight, self.bias)
        tracked = self.running_mean is not None
        if tracked and (self.frozen or not self.training) and exporting(input):
            exported: torch.Tensor = by_torch(input, params, self._state(config), config)
            return exported
        if tracked and (self.frozen or not self.training):
            y: torch.Tensor = batch_norm_inference(input, params, self._state(config), config, name=self._name())[0]
            return y

        if config.averaging == "cumulative" and mask is not None and 1 < mask.ndim == input.ndim:
            self._refuse_channel_mask(mask)
        comm = self._sync.communicator() if self.training else None
        state = self._state(config) if tracked else None
        if config.renorm is not None and state is None:
            raise refusal(
                ValueError,
                "BN-RENORM-1",
                got="renorm with track_running_stats=False",
                expected="running statistics, which renorm normalizes towards",
                do="Leave track_running_stats=True.",
            )
        y, stats, _ = batch_norm(
            input, params, config, state=state, mask=mask, lengths=lengths, comm=comm, name=self._name()
        )
        if self.training and state is not None and (torch.compiler.is_compiling() or not _repeats(input)):
            self._move(state, stats, config)
        return y

    def _state(self, config: BatchNormConfig) -> RunningState:
        """Return the buffers as a running state."""
        own = self._buffers
        count = own.get("running_count")
        if config.averaging == "cumulative":
            count = self.num_batches_tracked.expand(self.num_features)
        elif config.averaging == "exponential":
            count = None
        extras = [own.get(f"running_{name}") for name in _EXTRAS] if config.renorm is not None else ()
        return RunningState(self.running_mean, self.running_var, count, *extras)

    def _move(self, state: RunningState, stats: Moments, config: BatchNormConfig) -> None:
        """Write the state after one batch into the buffers, or nothing where it is refused."""
        new = update_running(state, stats, config, name=self._name())
        with torch.no_grad():
            if config.averaging == "cumulative":
                self.num_batches_tracked.copy_(new.count[0] if self.num_features else self.num_batches_tracked + 1)
            else:
                if new.count is not None:
                    self.running_count.copy_(new.count)
                self.num_batches_tracked.add_(1)
            self.running_mean.copy_(new.mean)
            self.running_var.copy_(new.var)
            for name in _EXTRAS:
                if (value := getattr(new, name)) is not None:
                    getattr(self, f"running_{name}").copy_(value)

    def _refuse_channel_mask(self, mask: torch.Tensor) -> None:
        if mask.shape[self.axis] != 1:
            raise refusal(
                ValueError,
                "BN-MASK-8",
                got="a mask with the channels' extent under momentum=None",
                expected="one count for all channels, which is what num_batches_tracked can hold",
                do='Give a mask without the channel axis, or a number as momentum with averaging="debiased".',
            )

    def _name(self) -> str:
        return type(self).__name__

    def reset_running_stats(self) -> None:
        """Set the running statistics to those before the first batch."""
        super().reset_running_stats()
        if "_sync" not in vars(self):  # torch's constructor
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

    def _widen_buffers(self, before: dict[str, torch.Tensor | None] | None = None) -> None:
        """Keep statistics in float32 where the module goes to 16 bits [BN-PREC-1], with the digits they had."""
        for name, buffer in self._buffers.items():
            if buffer is None or buffer.dtype not in (torch.float16, torch.bfloat16):
                continue
            source = (before or {}).get(name)
            source = buffer if source is None or source.is_meta else source
            self._buffers[name] = source.to(device=buffer.device, dtype=torch.float32)

    def extra_repr(self) -> str:
        """Return torch's text, and the options that are not torch's."""
        plain = vars(Options())
        more = [f"{name}={vars(self)[name]!r}" for name in _NAMES if vars(self)[name] != plain[name]]
        if self.sync not in (None, False):
            more.append(f"sync={self.sync!r}")
        return ", ".join([super().extra_repr(), *more])  # type: ignore[no-untyped-call]


def _leaf(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Return the node of `torch.fx` that calls a module, in place of what the module does."""
    tracer = given[0].tracer
    given = given if given[1] is not None else given[:1]
    named = {name: v for name, v in named.items() if v is not None}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), given, named)


def _repeats(input: torch.Tensor) -> bool:
    """Return whether a call repeats one whose update was made."""
    return is_recomputing() or in_backward_of_torch(input)


class BatchNorm1d(SpecifiedNorm, torch.nn.BatchNorm1d):
    """Batch normalization of input (N, C) or (N, C, L); see `SpecifiedNorm`.

    Examples
    --------
    >>> import torch
    >>> module = BatchNorm1d(1, eps=3.0, momentum=0.25)
    >>> module(torch.tensor([[1.0], [3.0]])).tolist()
    [[-0.5], [0.5]]
    >>> {name: value.tolist() for name, value in module.state_dict().items() if "running" in name}
    {'running_mean': [0.5], 'running_var': [1.25]}
    """


class BatchNorm2d(SpecifiedNorm, torch.nn.BatchNorm2d):
    """Batch normalization of input (N, C, H, W); see `SpecifiedNorm`."""


class BatchNorm3d(SpecifiedNorm, torch.nn.BatchNorm3d):
    """Batch normalization of input (N, C, D, H, W); see `SpecifiedNorm`."""


class BatchNorm(SpecifiedNorm):
    """Batch normalization of input of any rank from 2, with the channels on any axis; see `SpecifiedNorm`.

    Parameters
    ----------
    num_features : int
        C, the length of the channel axis.
    axis : int
        The channel axis; 1 by default, as in torch.
    *torch, **options
        As in `SpecifiedNorm`.

    Examples
    --------
    >>> import torch
    >>> BatchNorm(3, axis=-1, virtual_batch_size=2)(torch.ones(4, 5, 3)).shape
    torch.Size([4, 5, 3])
    """

    def __init__(self, num_features: int, *torch: Any, axis: int = 1, **options: Any) -> None:
        vars(self)["axis"] = axis
        super().__init__(num_features, *torch, **options)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2 or not -input.dim() <= self.axis < input.dim():
            raise refusal(
                ValueError,
                "BN-SHAPE-1" if input.dim() < 2 else "BN-SHAPE-2",
                got=f"input of shape {tuple(input.shape)} for axis={self.axis}",
                expected="rank 2 or more, with such an axis",
                do="Reshape the input, or build the module with its axis.",
            )
