"""Sums of JAX arrays in the memory of the host, by the compiled loops that serve NumPy, called from XLA's programs."""
