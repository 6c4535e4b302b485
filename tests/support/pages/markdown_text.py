"""What a page of Markdown means and what a renderer shows of it, for the tests that compare the two.

The project's pages use little of Markdown: headings, lists, fenced and indented code, tables, links,
``**bold**``, ``*a few words*`` for emphasis, and code spans. `meant` takes just these marks away, by rules much simpler
than a renderer's; what a renderer makes a mark of besides, or lets disappear, is then missing from what it shows.
"""

import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt

__all__ = ["ROUGH", "meant", "outside_code", "shown"]

_FENCE = re.compile(r" {0,3}(```|~~~)")
_ITEM = re.compile(r"(?:\s*(?:- +|\d{1,9}\. +))*")  # of the marks that there are, the pages use these
_HEADING = re.compile(r"#{1,6} +")
_DELIMITERS = re.compile(r"\|?(?:\s*:?-{3,}:?\s*\|)+(?:\s*:?-{3,}:?\s*)?")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\[\]]*\]\([^()\s]*\)")
_LINK = re.compile(r"\[([^\[\]]*)\]\([^()\s]*\)")
_AUTOLINK = re.compile(r"<(https?://[^<>\s]+)>")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_EMPHASIS = re.compile(r"(?<![\w)`*])\*([A-Za-z+](?:[\w ,:;/=\"'()\n-]*[\w)])?)\*(?![\w(`*])")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
#: Characters that a renderer somewhere takes for a mark; a formula that has one belongs into a code span.
ROUGH = re.compile(
    r"[*^\\|]|~~|(?<=\S)~|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?])|^\s*[>#]|^\s*[+=](?=\s)|(?<!!)\[[^\]]*\][(\[:]",
    re.MULTILINE,
)
_BAR = "\ue000"  # an escaped bar of a table's cell, which is none in a code span either
_PRIVATE = 0xE001  # code is kept aside as characters from here on


def shown(text: str, preset: str = "commonmark") -> str:
    """What a reader sees of a rendered page, without white space.

    Parameters
    ----------
    text : str
    preset : str
        Of markdown-it: "commonmark", or "js-default" with tables and strikethrough as GitHub has them.
    """
    renderer = MarkdownIt(preset, {"html": True, "linkify": False, "typographer": False}).enable("table")
    reader = _Text()
    reader.feed(renderer.render(text))
    reader.close()
    return _squeezed("".join(reader.found))


def meant(text: str) -> str:
    """What its writer meant to be read, without white space."""
    prose, code = _split(text)
    return _squeezed(_put_back(_plain(prose), code))


def outside_code(text: str) -> str:
    """The prose of a page without its marks, and with nothing in place of code."""
    prose, code = _split(text)
    return _plain(_ESCAPE.sub("", prose)).translate({_PRIVATE + i: "" for i in range(len(code))})


def _plain(prose: str) -> str:
    prose = _IMAGE.sub("", prose)
    for pattern in (_AUTOLINK, _LINK, _BOLD, _EMPHASIS):
        prose = pattern.sub(r"\1", prose)
    return _ESCAPE.sub(r"\1", prose)


def _split(text: str) -> tuple[str, list[str]]:
    """The prose, with a private character for every piece of code, and the code."""
    code: list[str] = []

    def aside(piece: str) -> str:
        code.append(piece)
        return chr(_PRIVATE + len(code) - 1)

    lines, fenced, after_blank = list[str](), False, True
    for line in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced or (after_blank and line.startswith("    ")):
            lines.append(aside(line))
            continue
        elif line.startswith("|"):
            if not _DELIMITERS.fullmatch(line):
                cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
                lines.append("\n".join(cell.replace(r"\|", _BAR) for cell in cells))
        else:
            mark = _HEADING if after_blank and line.startswith("#") else _ITEM
            lines.append(mark.sub("", line, count=1))
        after_blank = not line.strip()
    prose = _SPAN.sub(lambda m: aside(m[2].replace(_BAR, "|")), "\n".join(lines))
    return prose.replace(_BAR, r"\|"), code


def _put_back(prose: str, code: list[str]) -> str:
    return prose.translate({_PRIVATE + i: piece for i, piece in enumerate(code)})


def _squeezed(text: str) -> str:
    return "".join(text.split())


class _Text(HTMLParser):
    """The text of HTML, entities resolved; comments are no text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)
