"""Refusals that several formats share: of a file without a template, and of a dtype that a format has not."""

from collections.abc import Mapping
from typing import Any

from bnspec._errors import refusal

__all__ = ["needed_template", "refuse_bfloat16"]


def needed_template(template: bytes | None, suffix: str, expected: str, do: str) -> bytes:
    """Return the template that a format needs to be written, and refuse to do without one [BN-STATE-3]."""
    if template is not None:
        return template
    raise refusal(
        ValueError,
        "BN-STATE-3",
        got=f"a {suffix} file to write and no template",
        expected=f"a {suffix} file of the target's model, whose {expected} it takes",
        do=do,
    )


def refuse_bfloat16(arrays: Mapping[str, Any], expected: str, do: str) -> None:
    """Refuse an array of bfloat16, of which NumPy has no dtype of its own [BN-STATE-3]."""
    for name, array in arrays.items():
        if array.dtype.name == "bfloat16":
            raise refusal(TypeError, "BN-STATE-3", got=f"{name!r} has dtype bfloat16", expected=expected, do=do)
