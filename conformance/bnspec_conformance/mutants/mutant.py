"""A mutant, and how it gets into the core: by an edited line, or by a function put around another.

A mutant is applied in every module and class of bnspec and its backends that holds the function it changes, whatever
name it was imported under, and leaves exactly the objects that were there before.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import MethodType, ModuleType
from typing import Any

__all__ = ["Apply", "CannotApply", "Mutant", "edit", "holders", "together", "wrap"]

Apply = Callable[[], AbstractContextManager[None]]

#: What is mutated. The suite itself never is.
_PACKAGES = ("bnspec", "bnspec_backends")

#: Modules of the backends that need no further library; loaded before a mutant, so that none loads under one.
_BACKENDS = (
    "bnspec_backends.ranks.threads",
    "bnspec_backends.arrays.numpy",
    "bnspec_backends.arrays.strict",
    "bnspec_backends.cpu.blocked",
)


class CannotApply(LookupError):
    """A mutant does not fit the core: the core has changed, and the mutant must follow it."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One wrong implementation.

    Attributes
    ----------
    name : str
        As on the command line.
    clause : str
        What it breaks, and whose checks must find it.
    breaks : str
        What is wrong with it, in one sentence that begins with a verb.
    apply : callable
        Gives a context manager, in which the core is wrong in this way.
    row : str or None
        The divergence between implementations that it is an example of, one of `rows.ROWS`.
    """

    name: str
    clause: str
    breaks: str
    apply: Apply
    row: str | None = None


def edit(function: Any, *texts: str) -> Apply:
    """A context in which a function's source reads differently.

    Parameters
    ----------
    function : callable or property
        Of the core: a function, a method, a property or a decorated function.
    *texts : str
        An old text, which must occur exactly once outside of the docstring (indented as in a function at the top of
        a file), and the one that takes its place; more such pairs may follow.
    """
    changes = tuple(zip(texts[::2], texts[1::2], strict=True))

    @contextmanager
    def apply() -> Iterator[None]:
        with _instead(function, _compiled(function, changes)):
            yield

    return apply


def wrap(function: Any, behaviour: Callable[..., Any]) -> Apply:
    """A context in which ``behaviour(function, *arguments)`` is called instead of ``function(*arguments)``."""

    @contextmanager
    def apply() -> Iterator[None]:
        @functools.wraps(function)
        def replaced(*arguments: Any, **named: Any) -> Any:
            return behaviour(function, *arguments, **named)

        with _instead(function, replaced):
            yield

    return apply


def together(*parts: Apply) -> Apply:
    """Several changes that make one mutant."""

    @contextmanager
    def apply() -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part())
            yield

    return apply


def holders(function: Any) -> list[tuple[Any, str]]:
    """Every module and class of the core that holds a function, and the name it has there."""
    _load()
    wanted = _plain(function)
    found = []
    for module in _modules():
        owners = [
            module,
            *(v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__),
        ]
        found += [(o, name) for o in owners for name, value in vars(o).items() if _plain(value) is wanted]
    return found


@contextmanager
def _instead(function: Any, new: Any) -> Iterator[None]:
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


def _compiled(function: Any, changes: tuple[tuple[str, str], ...]) -> Any:
    """The function with its source edited, in the module it comes from."""
    plain = _plain(function)
    named = f"{plain.__module__}.{plain.__qualname__}"
    try:
        source = _without_docstring(textwrap.dedent(inspect.getsource(plain)))
    except OSError as error:
        raise CannotApply(f"the source of {named} cannot be read: {error}") from error
    for old, new in changes:
        if source.count(old) != 1:
            raise CannotApply(f"{named} has {source.count(old)} times, not once, the text {old!r}")
        source = source.replace(old, new)
    made: dict[str, Any] = {}
    exec(compile(source, f"<mutant of {named}>", "exec"), vars(sys.modules[plain.__module__]), made)
    return made[plain.__name__]


def _without_docstring(source: str) -> str:
    """The source with the docstring's lines blank, so that a formula quoted there is not edited."""
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.FunctionDef)
    first = body.body[0]
    lines = source.splitlines()
    if len(body.body) > 1 and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        assert first.end_lineno is not None
        lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """The function inside a property, a method or a static method."""
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
        importlib.import_module(module.name)
    for name in _BACKENDS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _forget() -> None:
    """Drop what the core has cached: it may come from the other version of it."""
    for module in _modules():
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()
