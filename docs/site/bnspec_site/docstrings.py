"""Docstrings as Markdown: an extension of griffe, which reads them for the reference.

griffe reads a type as an expression of Python where it can, takes the first of several choices for the default, and
gives names that share a description the annotation of the first. None of this is what numpydoc means, so types that are
words get spaces that no expression has, choices lose their braces, and each name has an item of its own.
"""

import re

import griffe

from bnspec_site.indents import python_markdown

__all__ = ["Literals", "markdown"]

_LITERAL = re.compile(r"(?P<text>[^\n]*)::(?=\n\s*\n)")
_TYPED = re.compile(r"^(?P<names>\*{0,2}\w.*?) : (?P<type>.+?)(?P<optional>, (?:optional|default\b.*))?$", re.MULTILINE)
_CHOICES = re.compile(r"\{(?P<choices>[^{}]*)\}")
_SHARED = re.compile(r"^(?P<names>[a-z_]\w*(?:, [a-z_]\w*)+)\n(?P<text>(?: {4}.*\n?|\n(?= {4}))+)", re.MULTILINE)
_ERRORS = re.compile(r"^[A-Z]\w*(?:, [A-Z]\w*)+$", re.MULTILINE)


def markdown(docstring: str) -> str:
    """Return a docstring with literal blocks and lists as Markdown has them, and types as they were written.

    A line that ends in two colons announces a block of code; colons alone on a line are not shown.
    """
    shown = _LITERAL.sub(lambda m: f"{m['text']}:" if m["text"].strip() else "", docstring)
    shown = _TYPED.sub(lambda m: f"{m['names']} : {_words(m['type'])}{m['optional'] or ''}", shown)
    shown = _SHARED.sub(lambda m: "".join(f"{name}\n{_ended(m['text'])}" for name in m["names"].split(", ")), shown)
    shown = _ERRORS.sub(lambda m: m.group().replace(", ", ",\u00a0"), shown)
    return python_markdown(shown).rstrip()


def _words(described: str) -> str:
    """Return a type so that it is no expression of Python, if it is more than a name."""
    described = _CHOICES.sub(lambda m: m["choices"].replace(", ", "\u00a0| "), described)
    return described.replace(", ", ",\u00a0").replace("shape (", "shape\u00a0(")


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


class Literals(griffe.Extension):
    """Rewrite the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **more: object) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
