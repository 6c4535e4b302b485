"""Plain text put into a page of Markdown, and Markdown shown as plain text or as HTML, with no character lost.

Formulas are full of what Markdown takes for marks: ``x*scale + (shift - mean*scale)`` is emphasis to a renderer, and a
``|`` ends a cell. Clauses therefore keep their formulas in code spans, and whatever else is written into a page goes
through `escaped`.
"""

import re
from typing import Any

from bnspec._printable import printable

__all__ = ["code", "escaped", "plain", "rendered"]

#: Characters that some renderer takes for a mark anywhere in a line; a full stop or a hyphen is one only at its start.
_MARKS = re.compile(
    r"[\\`*^~|]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is none
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"
    r"|(?<=\])[(\[:]"
    r"|^[#>]|^[+-](?=\s|$)|(?<=^\d)[.)](?=\s|$)|(?<=^\d\d)[.)](?=\s|$)"
)


def code(text: str) -> str:
    r"""Return the text as a code span for a line or a table's cell.

    Examples
    --------
    >>> print(code("numpy"), code("exec:a`b|c"))
    `numpy` ``exec:a`b\|c``
    """
    shown = " ".join(printable(text).split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    marks = "`" * (longest + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{marks}{space}{shown}{space}{marks}"


def escaped(text: str) -> str:
    r"""Return the text for a line or a table's cell of a page, as it will be read.

    Examples
    --------
    >>> print(escaped("x*scale + (shift - mean*scale), |mean| > 4 std, running_mean"))
    x\*scale + (shift - mean\*scale), \|mean\| > 4 std, running_mean
    """
    return _MARKS.sub(r"\\\g<0>", " ".join(printable(text).split()))


def plain(text: str) -> str:
    r"""Return a piece of Markdown as a reader sees it, on one line.

    Examples
    --------
    >>> plain("`dx = gamma*istd*g` within the *bound*;\n[more](there.md)")
    'dx = gamma*istd*g within the bound; more'
    """
    found: list[str] = []
    for block in _renderer().parse(text):
        if block.type in ("fence", "code_block"):
            found.append(block.content)
        for piece in block.children or ():
            found.append(" " if piece.type in ("softbreak", "hardbreak") else piece.content)
        found.append(" ")
    return " ".join("".join(found).split())


def rendered(text: str) -> str:
    """Return a piece of Markdown as HTML; HTML in it is text."""
    return str(_renderer().render(text))


def _renderer() -> Any:
    from markdown_it import MarkdownIt  # here, so that pages can be written where it is not installed

    return MarkdownIt("commonmark", {"html": False}).enable("table")
