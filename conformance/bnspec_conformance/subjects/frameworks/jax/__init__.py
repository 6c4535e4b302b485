"""Subjects: the layers of the JAX world, and what subjects on JAX share."""
