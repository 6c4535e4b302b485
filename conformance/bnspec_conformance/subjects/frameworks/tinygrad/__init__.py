"""Subjects: tinygrad's layer."""
