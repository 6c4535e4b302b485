"""Conversion of layers between frameworks: finding, reading and writing them, and what the move changed."""

__all__: list[str] = []
