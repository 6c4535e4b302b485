"""Docstrings as Markdown: an extension of griffe, which reads them for the reference."""

import re

import griffe

from bnspec_site.indents import python_markdown

__all__ = ["Literals", "markdown"]

_LITERAL = re.compile(r"(?P<text>[^\n]*)::(?=\n\s*\n)")
#: Types that griffe would read as an expression of Python and print as a tuple: "array, shape (N, C)", two errors.
_WORDS = re.compile(r"(?<=^)\S.* : .*, shape \(.*$|^[A-Z]\w*(?:, [A-Z]\w*)+$", re.MULTILINE)


def markdown(docstring: str) -> str:
    """Return a docstring with literal blocks and lists as Markdown has them.

    A line that ends in two colons announces a block of code; colons alone on a line are not shown. Spaces within a type
    that is described in words become ones that do not break.
    """
    shown = _LITERAL.sub(lambda m: f"{m['text']}:" if m["text"].strip() else "", docstring)
    shown = _WORDS.sub(lambda m: m.group().replace(", ", ",\u00a0").replace("shape (", "shape\u00a0("), shown)
    return python_markdown(shown).rstrip()


class Literals(griffe.Extension):
    """Rewrite the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **more: object) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
