"""Backends of bnspec: one module per array library and per way to join ranks.

Nothing is imported here. `bnspec.get_backend(name)` and ``sync_statistics=name`` find the modules through
the entry points of the installed package, so a library that is not asked for is never loaded.
"""

__all__: list[str] = []
