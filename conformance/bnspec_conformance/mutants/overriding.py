"""Overriding methods of the kernels that serve NumPy arrays: mutants through the seam that `bnspec.Kernels` is.

A mutant of this kind says nothing about the text of the core, and is made from any kernels: those of the specification
and the compiled ones.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import bnspec
from bnspec import Kernels
from bnspec._discovery import kernels_for

__all__ = ["Behaviour", "Override", "inside", "override"]

#: Called as ``behaviour(original, *arguments, **named)``, where `original` is the bound method that is overridden.
Behaviour = Callable[..., Any]

#: Methods that touch every element of x, or join two sets; and those that are composed of them.
_PARTS = ("moments", "normalize", "grad_sums", "grad_input", "merge")
_COMPOSED = ("forward", "pull_back", "infer")


@dataclass(frozen=True)
class Override:
    """Kernels of which some methods behave differently.

    Attributes
    ----------
    behaviours : mapping
        A behaviour for each method that is overridden, by the method's name.
    """

    behaviours: Mapping[str, Behaviour]

    def __call__(self) -> AbstractContextManager[None]:
        """Return a context in which NumPy arrays are served by a class made from the kernels that serve them now."""
        return self._applied()

    @contextmanager
    def _applied(self) -> Iterator[None]:
        kernels = type(kernels_for(np.empty(0)))
        with bnspec.use_kernels("numpy", _made(kernels, self.behaviours)()):
            yield


def override(**behaviours: Behaviour) -> Override:
    """Return a change: ``behaviour(original, *arguments)`` is called for a method of the kernels.

    An overridden primitive, and `merge`, take effect in the composed operations too: these are then those of
    `bnspec.Kernels`, whatever the kernels have in their place.

    Parameters
    ----------
    **behaviours : callable
        By the name of a method of `bnspec.Kernels`.
    """
    return Override(behaviours)


def inside(**behaviours: Behaviour) -> Behaviour:
    """Return the behaviour of a composed operation: inside of it alone, other methods behave differently.

    Parameters
    ----------
    **behaviours : callable
        By the name of a primitive, or merge.
    """

    def behaviour(original: Any, *arguments: Any, **named: Any) -> Any:
        kernels = _made(type(original.__self__), behaviours)()
        return getattr(kernels, original.__name__)(*arguments, **named)

    return behaviour


def _made(kernels: type[Kernels], behaviours: Mapping[str, Behaviour]) -> type[Kernels]:
    """Derive a class of kernels."""
    made: Any  # a subclass of Kernels; checkers take what `type` makes for any type

    def method(name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(Kernels, name))
        def called(self: Kernels, *arguments: Any, **named: Any) -> Any:
            return behaviours[name](getattr(super(made, self), name), *arguments, **named)

        return called

    def composed(name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(Kernels, name))
        def called(self: Kernels, *arguments: Any, **named: Any) -> Any:
            return getattr(Kernels, name)(self, *arguments, **named)

        return called

    base = kernels
    if any(name in behaviours for name in _PARTS):
        base = type(f"Composed{kernels.__name__}", (kernels,), {name: composed(name) for name in _COMPOSED})
    made = type(f"Mutant{kernels.__name__}", (base,), {name: method(name) for name in behaviours})
    found: type[Kernels] = made
    return found
