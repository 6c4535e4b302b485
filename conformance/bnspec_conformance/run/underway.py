"""What is being run right now, for whoever has to say so when a run is cut: a dead process can be asked nothing."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from bnspec_conformance.cases.case import Case

__all__ = ["Listener", "argument", "case", "told"]


class Listener(Protocol):
    """What is told."""

    def argument(self, value: Any) -> None:
        """A check begins with this argument, as it was drawn."""
        ...

    def case(self, case: Case) -> None:
        """A subject is about to be given this case."""
        ...


_listeners: list[Listener] = []


@contextlib.contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Tell a listener of everything in the body."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def argument(value: Any) -> None:
    """Say what a check begins with."""
    for listener in _listeners:
        listener.argument(value)


def case(value: Case) -> None:
    """Say what a subject is about to be given."""
    for listener in _listeners:
        listener.case(value)
