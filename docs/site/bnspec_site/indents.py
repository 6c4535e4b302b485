"""Markdown as GitHub reads it, written so that Python-Markdown reads it the same way.

Python-Markdown wants what belongs to a list item indented by four columns and a blank line before a list, and knows
only the language after a fence.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["python_markdown"]

_PARSER = MarkdownIt("commonmark").enable("table")
_MARKER = re.compile(r"\s*(?:[-+*]|\d+[.)])(?:\s+|$)")
_FENCE = re.compile(r"(?P<indent>\s*)(?P<marks>```+|~~~+)(?P<language>\w+)(?: +(?P<more>\S.*))?$")


def python_markdown(text: str) -> str:
    r"""Return the page with lists, tables and fences as Python-Markdown wants them.

    Examples
    --------
    >>> print(python_markdown("Two:\n- one\n  - nested\n\n  more"))
    Two:
    <BLANKLINE>
    - one
        - nested
    <BLANKLINE>
        more
    """
    lines = text.splitlines()
    tokens = _PARSER.parse(text)
    new: list[str] = []
    items = _items(tokens, lines)
    apart = _apart(tokens)
    fences = {token.map[0] for token in tokens if token.type == "fence" and token.map}
    for number, line in enumerate(lines):
        inside = [item for item in items if item[0] <= number < item[1]]
        if inside:
            start, _, column = inside[-1]
            body = line[column:] if number == start or not line[:column].strip() else line.lstrip()
            depth = len(inside) - (number == start)
            marker = line[:column].lstrip() if number == start else ""
            line = (" " * 4 * depth + marker + body).rstrip()
        if number in fences:
            line = _fence(line, lines[number + 1 : number + 2])
        if number in apart and new and new[-1].strip():
            new.append("")
        new.append(line)
    return "\n".join(new) + "\n"


def _items(tokens: list[Token], lines: list[str]) -> list[tuple[int, int, int]]:
    """Return first line, line after the last and column of the text of every list item, outer ones first."""
    found = []
    for token in tokens:
        if token.type == "list_item_open" and token.map:
            marker = _MARKER.match(lines[token.map[0]])
            assert marker is not None, lines[token.map[0]]
            found.append((token.map[0], token.map[1], len(marker.group())))
    return found


def _apart(tokens: list[Token]) -> set[int]:
    """Return the lines that begin an outermost list or a table, which want a blank line before."""
    return {
        token.map[0]
        for token in tokens
        if token.map
        and (
            (token.type in ("bullet_list_open", "ordered_list_open") and token.level == 0)
            or (token.type in ("table_open", "fence") and token.level == 0)
        )
    }


def _fence(line: str, first: list[str]) -> str:
    """Return the line that opens a fence: a session of Python is one of its own, and a file's name becomes a title."""
    found = _FENCE.fullmatch(line)
    if found is None:
        return line
    language = "pycon" if found["language"] == "python" and first and ">>> " in first[0] else found["language"]
    title = f' title="{found["more"]}"' if found["more"] else ""
    return f"{found['indent']}{found['marks']}{language}{title}"
