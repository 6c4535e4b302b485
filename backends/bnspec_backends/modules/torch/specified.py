"""Batch normalization as modules of torch: its classes, arguments, buffers and hooks, computing what bnspec specifies.

A module decides which of bnspec's functions run and keeps their state in torch's buffers; all maths is in the
functions. `running_mean`, `running_var` and `num_batches_tracked` mean what they mean in torch, so that state dicts go
both ways.
"""

from dataclasses import fields
from typing import Any

import torch

from bnspec import (
    BatchNormConfig,
    Communicator,
    Params,
    RunningState,
    batch_norm,
    batch_norm_inference,
)
from bnspec._checks.arrays import floating
from bnspec._errors import refusal
from bnspec._modes import exporting, untraced
from bnspec._torch.calls import by_torch
from bnspec_backends.modules.torch.buffers import RunningBuffers
from bnspec_backends.modules.torch.options import Options, configuration
from bnspec_backends.modules.torch.ranks import Sync
from bnspec_backends.modules.torch.whole_call import repeats, whole_call

__all__ = ["SpecifiedNorm"]

_NAMES = tuple(f.name for f in fields(Options))

#: Attributes that the configuration is made of.
_CONFIGURED = frozenset({"eps", "momentum", "axis", "weight", "bias", *_NAMES})


class SpecifiedNorm(RunningBuffers):
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
    frozen: bool
    _sync: Sync

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
        self._make_buffers(config)

    @property
    def sync(self) -> Any:
        """The ranks whose statistics are joined, as they were given."""
        return self._sync.given

    @sync.setter
    def sync(self, given: Any) -> None:
        vars(self)["_sync"] = Sync(given)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; an option that the others exclude is refused, and stays as it was."""
        if name not in _CONFIGURED or "_config" not in vars(self):
            super().__setattr__(name, value)
            return
        before: Any = getattr(self, name, None)  # torch's pruning takes a parameter away before it sets another
        super().__setattr__(name, value)
        if not (hasattr(self, "weight") and hasattr(self, "bias")):  # a replica, which gets its parameters one by one
            return
        try:
            vars(self)["_config"] = self._configured()
        except (TypeError, ValueError):
            super().__setattr__(name, before)
            raise

    def _configured(self) -> BatchNormConfig:
        options = tuple([vars(self)[name] for name in _NAMES])
        exist = (self.weight is not None, self.bias is not None)
        return configuration(self.axis, self.eps, self.momentum, *exist, options)

    def forward(self, input: torch.Tensor, mask: Any = None, lengths: Any = None) -> torch.Tensor:
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
        untraced(self._check, input)
        config, params = self.__dict__["_config"], Params(self.weight, self.bias)
        if mask is None and lengths is None and (done := whole_call(self, input, params, config)) is not None:
            return done
        if self._tracked and (self.frozen or not self.training):
            normalize: Any = by_torch if exporting(input) else self._by_running
            y: torch.Tensor = normalize(input, params, self._state(config), config)
            return y

        if self.training and self._sync.given not in (None, False):
            joined: torch.Tensor = _AMONG_RANKS(self, input, mask, lengths)
            return joined
        return self._by_batch(input, mask, lengths, None)

    def _by_running(self, input: torch.Tensor, params: Params, state: RunningState, config: BatchNormConfig) -> Any:
        return batch_norm_inference(input, params, state, config, name=type(self).__name__)[0]

    def _check(self, input: Any) -> None:
        who = type(self).__name__
        if not isinstance(input, torch.Tensor):
            raise refusal(
                TypeError,
                "BN-SHAPE-5",
                got=f"{who}: input is a {type(input).__name__}",
                expected="a torch.Tensor",
                do="Convert it with torch.as_tensor; bnspec.batch_norm takes arrays of other libraries.",
            )
        if input.is_nested:  # its extents are no numbers
            floating("input", input, who)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        found = input.shape[self.axis]
        if found != self.num_features:
            raise refusal(
                ValueError,
                "BN-SHAPE-4",
                got=f"input of shape {tuple(input.shape)}, with {found} channels on axis {self.axis}",
                expected=f"num_features={self.num_features} channels",
                do=f"Build {who}({found}), or move the channels to axis {self.axis}.",
            )

    def _by_batch(self, input: torch.Tensor, mask: Any, lengths: Any, comm: Communicator | None) -> torch.Tensor:
        config, params = self.__dict__["_config"], Params(self.weight, self.bias)
        if config.averaging == "cumulative" and mask is not None and 1 < mask.ndim == input.ndim:
            self._refuse_channel_mask(mask)
        state = self._state(config) if self._tracked else None
        if config.renorm is not None and state is None:
            raise refusal(
                ValueError,
                "BN-RENORM-4",
                got="renorm with track_running_stats=False",
                expected="running statistics, which renorm normalizes towards",
                do="Leave track_running_stats=True.",
            )
        towards = None if config.renorm is None else state
        y: torch.Tensor
        y, stats, _ = batch_norm(
            input, params, config, state=towards, mask=mask, lengths=lengths, comm=comm, name=type(self).__name__
        )
        if self.training and self.track_running_stats and state is not None:
            if torch.compiler.is_compiling() or not repeats(input):
                self._move(state, stats, config)
        return y

    def _refuse_channel_mask(self, mask: torch.Tensor) -> None:
        if mask.shape[self.axis] != 1:
            raise refusal(
                ValueError,
                "BN-MASK-8",
                got="a mask with the channels' extent under momentum=None",
                expected="one count for all channels, which is what num_batches_tracked can hold",
                do='Give a mask without the channel axis, or a number as momentum with averaging="debiased".',
            )

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script``, which asks this of every module of a model before it reads its source."""
        raise refusal(
            TypeError,
            "BN-ERR-5",
            got=f"torch.jit.script of a {type(self).__name__}",
            expected="a module of Python, or a graph of its operations",
            do="Use torch.jit.trace or torch.export, or script what bnspec.torch.restore(model) returns.",
        )

    def extra_repr(self) -> str:
        """Return torch's text, and the options that are not torch's."""
        plain = vars(Options())
        more = [f"{name}={vars(self)[name]!r}" for name in _NAMES if vars(self)[name] != plain[name]]
        if self.sync not in (None, False):
            more.append(f"sync={self.sync!r}")
        return ", ".join([super().extra_repr(), *more])  # type: ignore[no-untyped-call]


def _among_ranks(module: SpecifiedNorm, input: torch.Tensor, mask: Any, lengths: Any) -> torch.Tensor:
    """Normalize by the statistics of all ranks."""
    return module._by_batch(input, mask, lengths, module._sync.communicator())


#: The same while a graph is written, which breaks here: messages are no part of it.
_AMONG_RANKS: Any = torch.compiler.disable(_among_ranks)


def _leaf(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Return the node of `torch.fx` that calls a module, in place of what the module does."""
    tracer = given[0].tracer
    given = given if given[1] is not None else given[:1]
    named = {name: v for name, v in named.items() if v is not None}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), given, named)
