"""Modules that learn the number of channels from their first input, as torch's lazy ones do."""

from typing import Any

from torch.nn.modules import batchnorm

from bnspec._layer.eager import kept_tensors
from bnspec_backends.modules.torch.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnspec_backends.modules.torch.options import Options
from bnspec_backends.modules.torch.ranks import Sync
from bnspec_backends.modules.torch.specified import SpecifiedNorm

__all__ = ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"]


class _Lazy(SpecifiedNorm):
    """The part that the lazy modules share: options wait until the channels are known."""

    def __init__(self, *torch: Any, sync: Any = None, bias: bool = True, **given: Any) -> None:
        own = {name: given.pop(name) for name in vars(Options()) if name in given}
        options, shared = Options.of(own, type(self).__name__), Sync(sync)
        super(SpecifiedNorm, self).__init__(*torch, **given)
        if not bias:
            self.register_parameter("bias", None)
        self._begin(options, shared)

    def initialize_parameters(self, input: Any) -> None:
        """Make the parameters and buffers for the channels of input."""
        with kept_tensors():
            super().initialize_parameters(input)  # type: ignore[misc]
            held = [v for v in (self.weight, self.bias, self.running_mean) if v is not None]
            # torch leaves it 0 where nothing waits for the channels: all was loaded before, or there is nothing.
            self.num_features = int(held[0].shape[0] if held else input.shape[1])
            own = vars(self)
            self._begin(Options(**{name: own[name] for name in vars(Options())}), own["_sync"])


class LazyBatchNorm1d(_Lazy, batchnorm.LazyBatchNorm1d):
    """`BatchNorm1d` whose num_features is that of the first input.

    Examples
    --------
    >>> import torch
    >>> module = LazyBatchNorm1d(virtual_batch_size=2)
    >>> module(torch.ones(4, 3)).shape, type(module).__name__, module.num_features
    (torch.Size([4, 3]), 'BatchNorm1d', 3)
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_Lazy, batchnorm.LazyBatchNorm2d):
    """`BatchNorm2d` whose num_features is that of the first input."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_Lazy, batchnorm.LazyBatchNorm3d):
    """`BatchNorm3d` whose num_features is that of the first input."""

    cls_to_become = BatchNorm3d
