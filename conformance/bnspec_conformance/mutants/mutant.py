"""Mutant: one wrong implementation, and the changes of the core that make it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

__all__ = ["Apply", "CannotApply", "Mutant", "Together", "parts", "together"]

#: Gives a context manager, in which the core is wrong in one way.
Apply = Callable[[], AbstractContextManager[None]]


class CannotApply(LookupError):
    """Error of a mutant that does not fit the core: the core has changed, and the mutant must follow it."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One wrong implementation.

    Attributes
    ----------
    name : str
        As on the command line.
    clause : str
        Id of the clause that it breaks, and whose checks must find it.
    breaks : str
        The fault, in one sentence that begins with a verb.
    apply : callable
        Gives a context manager, in which the core is wrong in this way: an `override` of kernels, a `wrap` of a
        function, an `edit` of a source text, or several of them `together`.
    row : str or None
        The divergence between implementations that it is an example of, one of `rows.ROWS`.
    """

    name: str
    clause: str
    breaks: str
    apply: Apply
    row: str | None = None


@dataclass(frozen=True)
class Together:
    """Several changes that make one mutant."""

    parts: tuple[Apply, ...]

    def __call__(self) -> AbstractContextManager[None]:
        """Return a context in which all of them hold."""
        return self._applied()

    @contextmanager
    def _applied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part())
            yield


def together(*parts: Apply) -> Together:
    """Return several changes as one."""
    return Together(parts)


def parts(apply: Apply) -> list[Apply]:
    """List the single changes that a change consists of."""
    return [one for part in apply.parts for one in parts(part)] if isinstance(apply, Together) else [apply]
