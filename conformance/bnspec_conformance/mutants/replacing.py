"""Replacing a function of the core: in every module and class that holds it, whatever name it was imported under.

Afterwards exactly the objects are there that were there before.
"""

import contextlib
import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType, ModuleType
from typing import Any

from bnspec_conformance.mutants.mutant import Apply, CannotApply

__all__ = ["holders", "plain", "replaced", "wrap"]

#: What is mutated. The suite itself never is.
_PACKAGES = ("bnspec", "bnspec_backends")

#: Modules of the backends that need no further library; loaded before a mutant, so that none loads under one.
_BACKENDS = (
    "bnspec_backends.ranks.threads",
    "bnspec_backends.arrays.numpy",
    "bnspec_backends.arrays.strict",
    "bnspec_backends.cpu.blocked",
)


def wrap(function: Any, behaviour: Callable[..., Any]) -> Apply:
    """Return a change: ``behaviour(function, *arguments)`` is called instead of ``function(*arguments)``."""

    @contextmanager
    def apply() -> Iterator[None]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            return behaviour(function, *arguments, **named)

        with replaced(function, wrapped):
            yield

    return apply


@contextmanager
def replaced(function: Any, new: Any) -> Iterator[None]:
    """Put another function in the place of one of the core."""
    places = holders(function)
    if not places:
        raise CannotApply(f"no module of {' and '.join(_PACKAGES)} holds {function!r}")
    before = [(owner, name, vars(owner)[name]) for owner, name in places]
    _forget()
    try:
        for owner, name, old in before:
            still = isinstance(old, staticmethod) and not isinstance(new, staticmethod)
            setattr(owner, name, staticmethod(new) if still else new)
        yield
    finally:
        for owner, name, old in before:
            setattr(owner, name, old)
        _forget()


def holders(function: Any) -> list[tuple[Any, str]]:
    """List every module and class of the core that holds a function, and the name it has there."""
    _load()
    wanted = plain(function)
    found = []
    for module in _modules():
        owners = [
            module,
            *(v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__),
        ]
        found += [(o, name) for o in owners for name, value in vars(o).items() if plain(value) is wanted]
    return found


def plain(value: Any) -> Any:
    """Return the function inside a property, a method or a static method."""
    if isinstance(value, property):
        return value.fget
    return value.__func__ if isinstance(value, staticmethod | classmethod | MethodType) else value


def _modules() -> list[ModuleType]:
    return [m for name, m in sorted(sys.modules.items()) if name.split(".")[0] in _PACKAGES]


@functools.cache
def _load() -> None:
    """Import all of the core now: what is imported under a mutant would keep it."""
    import bnspec

    for module in pkgutil.walk_packages(bnspec.__path__, "bnspec."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # the door of a framework that is not installed
            if str(error.name).partition(".")[0] in _PACKAGES:
                raise
    for name in _BACKENDS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _forget() -> None:
    """Drop what the core has cached: it may come from the other version of it."""
    for module in _modules():
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()
