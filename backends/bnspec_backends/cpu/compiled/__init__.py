"""Kernels for host memory, compiled by numba."""
