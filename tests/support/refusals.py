"""Refusals: their whole text, and that they leave everything as it was."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from comparisons import bits

import bnspec
from bnspec import _context, _discovery
from bnspec._clauses import clauses

__all__ = ["REFUSAL", "process", "refused"]

#: what came; expected what was expected [clause]. What to do.
REFUSAL = re.compile(r"\S.*; expected \S.* \[(BN-[A-Z]+-[1-9][0-9]*)\]\. \S.*[.]", re.DOTALL)


def process() -> tuple[Any, ...]:
    """Return what bnspec remembers outside of layers: the context, primitives that were found, warnings given."""
    return bnspec.current_context(), _context.is_recomputing(), _context._frozen_warned, dict(_discovery._kernels)


@contextmanager
def refused(kind: type[Exception], text: str, *watched: Any) -> Iterator[None]:
    """Expect exactly this refusal, and every watched thing and the process to the bit as they were.

    ``text`` is the whole message; its four parts and the clause are checked as well.
    """
    before = bits([watched, process()])
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value) == text
    parts = REFUSAL.fullmatch(text)
    assert parts, f"not of the form 'came; expected wanted [clause]. Advice.': {text}"
    assert parts[1] in clauses()
    assert bits([watched, process()]) == before
