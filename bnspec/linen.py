"""Batch normalization for ``flax.linen``: a module in the place of ``flax.linen.BatchNorm``.

To flax it is a ``flax.linen.BatchNorm``, with its arguments, names and collections, and it computes what bnspec
specifies, with ghost batches, renormalization, masks, and statistics joined exactly over a named axis. bnspec's
functions take arrays of JAX as they take any other; this module is only needed for modules.
"""

from bnspec_backends.modules.linen import BatchNorm

__all__ = ["BatchNorm"]
