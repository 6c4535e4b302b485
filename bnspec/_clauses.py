"""The clauses of ``SPEC.md``, read from the file that ships with the package.

``SPEC.md`` is the only copy of the text: checks, error messages and the command ``bnspec spec`` all
cite it by clause id. A page starts with a level-two heading and ends at the next one, or at a heading of level one; a
line of it says which profiles a port needs to be asked. A clause is a list item that starts with its id in bold, its
level and, where they are not those of the page, its profiles; the next item, heading or unindented paragraph ends it::

    ## Moments

    Profile: core

    - **BN-MOM-1** (A; statistics) The count is ...
      continued here.

``SPEC.md`` has a version of its own, in a line of its own before the first page: ``Version: 1.0``.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from bnspec._errors import refusal

__all__ = ["Clause", "LEVELS", "clauses", "page", "specification", "specification_version"]

#: From what every port must do to what few do; SPEC.md says what each means.
LEVELS = ("A", "AA", "AAA")

_PAGE = re.compile(r"(?P<marks>##?) +(?P<title>.+?)\s*$")
_CLAUSE = re.compile(
    r"- \*\*(?P<id>(?P<family>BN-[A-Z]+)-[1-9][0-9]*)\*\* +"
    r"(?:\((?P<level>A+)(?:; (?P<profiles>[a-z]+(?:, [a-z]+)*))?\) +)?(?P<text>.*)$"
)
_PROFILE = re.compile(r"Profile: (?P<profiles>[a-z]+(?:, [a-z]+)*)$")
_VERSION = re.compile(r"^Version: (?P<version>[0-9]+\.[0-9]+)$", re.MULTILINE)
_FENCE = re.compile(r" {0,3}(```|~~~)")


class Clause(NamedTuple):
    """One normative sentence, or a few, under an id that never changes its meaning."""

    id: str  # such as "BN-MOM-1"
    family: str  # such as "BN-MOM"
    title_of_page: str  # the heading it stands under, without the marks
    text: str  # Markdown, without what stands before it and the list item's indentation
    level: str  # of LEVELS
    profiles: tuple[str, ...]  # without which nobody is asked about it


def specification() -> str:
    """Return the whole text of ``SPEC.md``."""
    return files("bnspec").joinpath("SPEC.md").read_text(encoding="utf-8")


def specification_version() -> str:
    """Return the version of the text, which differs from that of the package."""
    found = _VERSION.search(specification())
    if found is None:
        raise ValueError("SPEC.md has no line such as 'Version: 1.0'")
    return found["version"]


def clauses() -> dict[str, Clause]:
    """Return every clause by its id, in the order of ``SPEC.md``."""
    return dict(_shipped_clauses())


def page(clause_or_family: str) -> str:
    """Return the page, or the pages, on which a clause or a family stands.

    Parameters
    ----------
    clause_or_family : str
        Such as ``"BN-MOM-3"`` or ``"BN-MOM"``; upper and lower case are the same.

    Returns
    -------
    str
        Markdown from the page's heading up to the next page.

    Raises
    ------
    LookupError
        When no such clause or family exists, listing those with a similar name.
    """
    wanted = clause_or_family.upper()
    known = _shipped_clauses()
    titles = {clause.title_of_page for clause in known.values() if wanted in (clause.id, clause.family)}
    if not titles:
        raise refusal(
            LookupError,
            "BN-ERR-5",
            got=f"{clause_or_family!r} names no clause of SPEC.md",
            expected="a clause or a family, such as " + ", ".join(_near(wanted, known)),
            do="`bnspec spec` prints the whole text.",
        )
    return "\n\n".join(text.strip() for title, text in _pages(specification()) if title in titles)


def _near(wanted: str, known: dict[str, Clause]) -> list[str]:
    """Return the clauses of the same family, else ids spelt alike, else every family."""
    family = wanted.rpartition("-")[0]
    siblings = [clause.id for clause in known.values() if clause.family == family]
    families = list(dict.fromkeys(clause.family for clause in known.values()))
    return siblings or get_close_matches(wanted, [*families, *known], n=5) or families


@cache
def _shipped_clauses() -> dict[str, Clause]:
    return _parse(specification())


def _parse(text: str) -> dict[str, Clause]:
    """Read the clauses out of Markdown.

    Raises
    ------
    ValueError
        For an id that occurs twice or on no page, and for a clause without level or profile.
    """
    found: dict[str, Clause] = {}
    for title, body in _pages(text):
        for clause in _clauses_of(title, body):
            if clause.id in found:
                raise ValueError(
                    f"clause {clause.id} occurs twice, under {found[clause.id].title_of_page!r} and {title!r}"
                )
            if not title:
                raise ValueError(f"clause {clause.id} stands on no page")
            if clause.level not in LEVELS:
                raise ValueError(
                    f"clause {clause.id} has no level; expected one of ({'), ('.join(LEVELS)}) after its id"
                )
            if not clause.profiles:
                raise ValueError(f"clause {clause.id} has no profile, and its page {title!r} no line 'Profile: ...'")
            found[clause.id] = clause
    return found


def _pages(text: str) -> Iterator[tuple[str, str]]:
    """Split at level-two headings outside fenced code; what follows one of level one has the title ""."""
    title = ""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        start = None if fenced else _PAGE.match(line)
        if start:
            yield title, "\n".join(lines)
            title, lines = start["title"] if start["marks"] == "##" else "", []
        lines.append(line)
    yield title, "\n".join(lines)


def _clauses_of(title: str, body: str) -> Iterator[Clause]:
    current: re.Match[str] | None = None
    lines: list[str] = []
    after_blank = False
    of_page = _profiles_of(body)
    for line in body.splitlines():
        start = _CLAUSE.match(line)
        indented = line.startswith("  ")
        ends = start or line.startswith(("#", "- ")) or (after_blank and line.strip() and not indented)
        if current and ends:
            yield _clause(current, title, of_page, lines)
            current, lines = None, []
        if start:
            current, lines = start, [start["text"]]
        elif current:
            lines.append(line.removeprefix("  "))
        after_blank = not line.strip()
    if current:
        yield _clause(current, title, of_page, lines)


def _profiles_of(body: str) -> str:
    """Return the profiles that the line of a page names, or an empty text."""
    found = [line for line in map(_PROFILE.match, body.splitlines()) if line]
    return found[0]["profiles"] if found else ""


def _clause(start: re.Match[str], title: str, of_page: str, lines: list[str]) -> Clause:
    profiles = start["profiles"] or of_page
    named = tuple(profiles.split(", ")) if profiles else ()
    return Clause(start["id"], start["family"], title, "\n".join(lines).strip(), start["level"] or "", named)
