"""Kernels for JAX arrays: sums that XLA compiles as fast as its own, and the derivative rules of statistics."""
