"""Batch normalization for equinox: a module in the place of ``equinox.nn.BatchNorm(mode="batch")``.

To equinox it is an ``equinox.nn.BatchNorm``, with its arguments, leaves and state, and it computes what bnspec
specifies, with renormalization, masks, ghost batches, and statistics joined exactly over the axes of the batch.
bnspec's functions take arrays of JAX as they take any other; this module is only needed for modules.
"""

from bnspec_backends.modules.equinox import BatchNorm

__all__ = ["BatchNorm"]
