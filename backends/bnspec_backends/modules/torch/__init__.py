"""Modules of torch that compute what bnspec specifies; `bnspec.torch` is their public name."""

from bnspec_backends.modules.torch.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnspec_backends.modules.torch.folding import FoldedLayer, FoldedModel, fold
from bnspec_backends.modules.torch.lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from bnspec_backends.modules.torch.precise import precise_bn
from bnspec_backends.modules.torch.replacing import replace, restore

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "FoldedLayer",
    "FoldedModel",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "fold",
    "precise_bn",
    "replace",
    "restore",
]
