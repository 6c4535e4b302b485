"""Batch normalization for torch: modules in the place of ``torch.nn.BatchNorm2d`` and its kin.

They are torch's classes to torch, with its arguments, parameters, buffers and state dicts, and they compute what bnspec
specifies, with ghost batches, renormalization, masks, and statistics joined over ranks. `replace` puts them into a
model, `precise_bn` sets a model's running statistics to exact ones, and `fold` folds them into the layers beside them.
bnspec's functions take tensors as they take any other arrays; this module is only needed for modules.
"""

from bnspec_backends.modules.torch import (
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    FoldedLayer,
    FoldedModel,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    fold,
    precise_bn,
    replace,
    restore,
)

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
