"""Variables of the environment that bnspec reads: one that cannot be understood is refused, by its name."""

import os
from collections.abc import Sequence

from bnspec._errors import refusal

__all__ = ["choice", "whole_number"]


def whole_number(variable: str, least: int, most: int, clause: str) -> int | None:
    """Read a variable that holds a whole number; None where it is not set, or empty.

    Raises
    ------
    ValueError
        If the variable holds something else.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most:
        return int(text)
    raise refusal(
        ValueError,
        clause,
        got=f"the environment variable {variable} is {_shown(text)}",
        expected=f"a whole number from {least} to {most}",
        do="Correct or unset it.",
    )


def choice(variable: str, names: Sequence[str], clause: str) -> str:
    """Read a variable that holds one of some names; empty where it is not set.

    Raises
    ------
    ValueError
        If the variable holds something else.
    """
    text = os.environ.get(variable, "").strip()
    if not text or text in names:
        return text
    raise refusal(
        ValueError,
        clause,
        got=f"the environment variable {variable} is {_shown(text)}",
        expected="one of " + ", ".join(names),
        do="Correct or unset it.",
    )


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}...")
