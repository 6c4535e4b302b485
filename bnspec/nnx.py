"""Batch normalization for ``flax.nnx``: a module in the place of ``flax.nnx.BatchNorm``.

To flax it is a ``flax.nnx.BatchNorm``, with its arguments and variables, and it computes what bnspec specifies, with
ghost batches, renormalization, masks, and statistics joined exactly over a named axis. bnspec's functions take arrays
of JAX as they take any other; this module is only needed for modules.
"""

from bnspec_backends.modules.nnx import BatchNorm

__all__ = ["BatchNorm"]
