"""Libraries that are installed where the tests run."""

import importlib.util

import bnspec

__all__ = ["BACKENDS", "installed"]

#: Backends whose library is installed here.
BACKENDS = [info.name for info in bnspec.known_backends() if info.available]


def installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
