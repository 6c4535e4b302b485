"""The subjects of `hostile` by name, for a process of their own."""

import functools
from typing import Any

import hostile

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    kind = name.replace("_", " ")
    if kind not in hostile.KINDS:
        raise AttributeError(name)
    return functools.partial(hostile.made, kind)
