"""Modules of torch that compute what bnspec specifies; `bnspec.torch` is their public name."""

from bnspec_backends.modules.torch.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnspec_backends.modules.torch.lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from bnspec_backends.modules.torch.precise import precise_bn
from bnspec_backends.modules.torch.replacing import replace, restore

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "precise_bn",
    "replace",
    "restore",
]
