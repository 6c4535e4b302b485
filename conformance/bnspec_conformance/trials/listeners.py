"""Listeners of a run: each is told what is about to be run, so that a run that is cut short can name it.

A process that was killed cannot be asked afterwards, so listeners write down what they are told at once.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from bnspec_conformance.cases.case import Case

__all__ = ["Listener", "listening", "notify_argument", "notify_case"]


class Listener(Protocol):
    """Receiver of what is about to be run."""

    def argument(self, value: Any) -> None:
        """Take note that a check begins with this argument, as it was drawn."""
        ...

    def case(self, case: Case) -> None:
        """Take note that a subject is about to be given this case."""
        ...


_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of everything that runs in the body."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def notify_argument(value: Any) -> None:
    """Tell the listeners which argument a check begins with."""
    for listener in _listeners:
        listener.argument(value)


def notify_case(value: Case) -> None:
    """Tell the listeners which case a subject is about to be given."""
    for listener in _listeners:
        listener.case(value)
