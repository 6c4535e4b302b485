"""Subjects: Paddle's layer."""
