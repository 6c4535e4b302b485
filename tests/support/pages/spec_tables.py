"""Pages of SPEC.md and the tables on them, for the tests that compare these with the code."""

import itertools

from bnspec._clauses import specification

__all__ = ["page", "rows"]


def page(title: str) -> str:
    """Return the text under a heading of level two, up to the next heading."""
    return specification().split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0].split("\n# ", 1)[0]


def rows(title: str, heading: str) -> list[list[str]]:
    """Return the cells of the table of a page whose first line begins so, without that line."""
    text = page(title)
    lines = text[text.index(heading) :].splitlines()[2:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in itertools.takewhile(str.strip, lines)]
