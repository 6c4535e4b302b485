"""Formats of checkpoint files, one a module, each through the library of the framework that writes it.

`bnspec convert` finds them by the entry points of the group ``bnspec.checkpoints``, whose names are suffixes. None of
them unpickles anything.
"""

__all__: list[str] = []
