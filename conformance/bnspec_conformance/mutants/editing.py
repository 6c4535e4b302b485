"""Editing the source text of a function of the core: for mutants that no argument and no result can express.

Each function that is edited is named in `edited.EDITED`, because whoever changes its text may have to change a mutant.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from bnspec_conformance.mutants.mutant import CannotApply
from bnspec_conformance.mutants.replacing import plain, replaced

__all__ = ["Edit", "edit"]


@dataclass(frozen=True)
class Edit:
    """Function whose source reads differently.

    Attributes
    ----------
    function : callable or property
        Of the core: a function, a method, a property or a decorated function.
    changes : tuple of (str, str)
        Old texts, and the new ones in their places, one after the other.
    """

    function: Any
    changes: tuple[tuple[str, str], ...]

    @property
    def edited(self) -> str:
        """Dotted name of the function."""
        function = plain(self.function)
        return f"{function.__module__}.{function.__qualname__}"

    def source(self) -> str:
        """Return the source as it reads after the edit.

        Raises
        ------
        CannotApply
            If there is no source, or an old text does not occur in it exactly once.
        """
        try:
            source = _without_docstring(textwrap.dedent(inspect.getsource(plain(self.function))))
        except OSError as error:
            raise CannotApply(f"the source of {self.edited} cannot be read: {error}") from error
        for old, new in self.changes:
            if source.count(old) != 1:
                raise CannotApply(f"{self.edited} has {source.count(old)} times, not once, the text {old!r}")
            source = source.replace(old, new)
        return source

    def __call__(self) -> AbstractContextManager[None]:
        """Return a context in which the core holds the edited function."""
        return self._applied()

    @contextmanager
    def _applied(self) -> Iterator[None]:
        function = plain(self.function)
        code = compile(self.source(), f"<mutant of {self.edited}>", "exec")
        made: dict[str, Any] = {}
        exec(code, vars(sys.modules[function.__module__]), made)
        with replaced(self.function, made[function.__name__]):
            yield


def edit(function: Any, *texts: str) -> Edit:
    """Return a change of a function's source.

    Parameters
    ----------
    function : callable or property
        Of the core.
    *texts : str
        An old text, which must occur exactly once outside of the docstring (indented as in a function at the top of
        a file), and the one that takes its place; more such pairs may follow.
    """
    return Edit(function, tuple(zip(texts[::2], texts[1::2], strict=True)))


def _without_docstring(source: str) -> str:
    """Return the source with the docstring's lines blank, so that a formula quoted there is not edited."""
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.FunctionDef)
    first = body.body[0]
    lines = source.splitlines()
    if len(body.body) > 1 and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        assert first.end_lineno is not None
        lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return "\n".join(lines)
