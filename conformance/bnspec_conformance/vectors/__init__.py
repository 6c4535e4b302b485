"""Vectors: cases with their exact answers and bounds as JSON files, for implementations that no Python can call.

`export` writes them, a program anywhere computes results, `verify` judges these. docs/vectors.md describes the format
for those who read it without Python.
"""

__all__: list[str] = []
