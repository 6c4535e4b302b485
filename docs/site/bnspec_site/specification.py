"""SPEC.md as pages of the site: one for each of its own pages, with an anchor at each clause."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["INDEX", "SpecificationPage", "anchor", "clause_anchors", "contents", "slug_of", "specification_pages"]

#: What stands before the first page, and the list of pages.
INDEX = "spec/index.md"

_HEADING = re.compile(r"(##?) +(.+?)\s*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_CLAUSE = re.compile(r"^- (?=\*\*(BN-[A-Z]+-[1-9][0-9]*)\*\*)", re.MULTILINE)


@dataclass(frozen=True)
class SpecificationPage:
    """One page of SPEC.md.

    Attributes
    ----------
    part : str
        The heading of level one that it stands under; empty before the first.
    title : str
    uri : str
        Path in the site, such as ``spec/running.md``.
    text : str
        Markdown, its title a heading of level one.
    """

    part: str
    title: str
    uri: str
    text: str

    @property
    def clauses(self) -> list[str]:
        """Ids of the clauses on it, in order."""
        return _CLAUSE.findall(self.text)

    @property
    def anchored(self) -> str:
        """The text with an anchor at each clause."""
        return _CLAUSE.sub(lambda m: f'- <a id="{anchor(m[1])}"></a>', self.text)


def anchor(clause: str) -> str:
    """Return the anchor of a clause, such as ``bn-run-3``."""
    return clause.lower()


def contents(text: str) -> tuple[str, list[tuple[str, str]], list[SpecificationPage]]:
    """Split SPEC.md at its headings.

    Returns
    -------
    introduction : str
        With the heading of the whole text.
    parts : list of (str, str)
        Each other heading of level one, and the text between it and its first page.
    pages : list of SpecificationPage
    """
    (_, first, introduction), *sections = _sections(text)
    parts, found, part, taken = [], [], "", set[str]()
    for level, title, body in sections:
        if level == 1:
            part = title
            parts.append((title, body.strip()))
            continue
        slug = _short(title, taken)
        taken.add(slug)
        found.append(SpecificationPage(part, title, f"spec/{slug}.md", f"# {title}\n{body}"))
    return f"# {first}\n{introduction}", parts, found


def specification_pages(text: str) -> dict[str, str]:
    """Return the pages of the site by their paths, the list of them first."""
    introduction, parts, found = contents(text)
    listed = [introduction.strip(), ""]
    for part, body in (("", ""), *parts):
        listed += [f"## {part}", "", body, ""] if part else []
        for page in found:
            if page.part == part:
                ids = page.clauses
                about = f": {ids[0]}" + (f" to {ids[-1]}" if len(ids) > 1 else "") if ids else ""
                listed.append(f"- [{page.title}]({page.uri.removeprefix('spec/')}){about}")
        listed.append("")
    return {INDEX: "\n".join(listed)} | {page.uri: page.anchored for page in found}


def clause_anchors(text: str) -> dict[str, str]:
    """Return the address in the site of each clause and, for its page, of each family of clauses."""
    found: dict[str, str] = {}
    for page in contents(text)[2]:
        for clause in page.clauses:
            found.setdefault(clause.rpartition("-")[0], page.uri)
            found[clause] = f"{page.uri}#{anchor(clause)}"
    return found


def slug_of(title: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _short(title: str, taken: set[str]) -> str:
    """Return the first word that tells a page from others, or all words where a page before has that one."""
    words = re.findall(r"[\w-]+", title.lower().removeprefix("batch "))
    appendix = words[0] == "appendix"
    words = [word for word in words if word not in ("appendix", "the")]
    short = "appendix-" * appendix + words[0]
    return short if short not in taken else "-".join(words)


def _sections(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield level, title and body at each heading of level one or two outside of fenced code."""
    level, title, lines, fenced = 1, "", list[str](), False
    for line in text.splitlines():
        fenced ^= bool(_FENCE.match(line))
        heading = None if fenced else _HEADING.fullmatch(line)
        if heading:
            if title:
                yield level, title, "\n".join(lines) + "\n"
            level, title, lines = len(heading[1]), heading[2], []
        else:
            lines.append(line)
    yield level, title, "\n".join(lines) + "\n"
