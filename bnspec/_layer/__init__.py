"""Layers for eager arrays, with tensorpack's options."""

__all__: list[str] = []
