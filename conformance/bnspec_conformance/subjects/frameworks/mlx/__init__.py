"""Subjects: MLX's layer."""
