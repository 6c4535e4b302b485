"""Ports in a module that was named without an attribute, to say how they would be named."""

import importlib
import importlib.util
import inspect
import os
import sys
from types import ModuleType
from typing import Any

__all__ = ["ports_in_words", "see_modules_here"]

#: Ports that are named at most.
_FEW = 3


def see_modules_here() -> None:
    """Let modules beside the user be imported, as ``python -m`` does."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def ports_in_words(name: str) -> str:
    """Return a sentence about the module of a name that is no subject; nothing where there is no such module.

    A module in the current folder is imported to look into it, as it would be to run its port; no other is.

    Parameters
    ----------
    name : str
        As it was given in place of a subject.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        return ""
    see_modules_here()
    if not _is_here(name.split(".", 1)[0]):
        return ""
    try:
        ports = _ports(importlib.import_module(name))
    except Exception as error:
        return f" There is a module {name}, which does not import: {type(error).__name__}: {error}"
    if not ports:
        return f" There is a module {name}, but nothing in it has supports(case) and run(case)."
    return f" Did you mean {' or '.join(f'{name}:{port}' for port in ports[:_FEW])}?"


def _is_here(package: str) -> bool:
    """Return whether a module or package lies in the current folder or below; it is not imported to find out."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    here = os.path.realpath(os.getcwd())
    return found is not None and os.path.realpath(found.origin or os.sep).startswith(here + os.sep)


def _ports(module: ModuleType) -> list[str]:
    """Return the names of the ports in a module, objects before the classes that make them."""
    named = [(name, value) for name, value in vars(module).items() if not name.startswith("_") and _is_port(value)]
    objects = [name for name, value in named if not inspect.isclass(value)]
    classes = [name for name, value in named if inspect.isclass(value) and value.__module__ == module.__name__]
    return objects or classes


def _is_port(value: Any) -> bool:
    return all(callable(getattr(value, method, None)) for method in ("supports", "run"))
