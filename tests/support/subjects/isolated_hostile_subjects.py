"""The subjects of `hostile_subjects` by name, for a process of their own."""

import functools
from typing import Any

import hostile_subjects

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    kind = name.replace("_", " ")
    if kind not in hostile_subjects.KINDS:
        raise AttributeError(name)
    return functools.partial(hostile_subjects.made, kind)
