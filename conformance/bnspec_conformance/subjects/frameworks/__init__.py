"""Subjects: the layers of frameworks."""
