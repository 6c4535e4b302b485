"""Links wherever a page mentions a clause or a public name, put into its HTML."""

import html as entities
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Anchors", "linked"]

_TOKEN = re.compile(r"""(<!--.*?-->|<(?:"[^"]*"|'[^']*'|[^'">])*>)""", re.DOTALL)
_TAG = re.compile(r"<(?P<end>/?)(?P<name>[a-zA-Z][\w-]*)")
_CLAUSE = re.compile(r"(?<![\w-])BN-[A-Z]+(?:-[1-9][0-9]*)?(?![\w-])")
_NAME = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:\(.*\))?", re.DOTALL)
#: Elements within which nothing is linked.
_OPAQUE = ("a", "autoref", "script", "style", "svg", "button")


class Anchors(NamedTuple):
    """Addresses in the site, as paths of pages with or without an anchor."""

    clauses: Mapping[str, str]  # by id, and by family
    names: Mapping[str, str]  # by full name, such as "bnspec.batch_norm"
    modules: Sequence[str] = ()  # names of these are linked without the module's name, the first that has one


def linked(html: str, anchors: Anchors, address: Callable[[str], str]) -> str:
    """Return the page with a link at each mention, and with each table in an element that scrolls.

    Parameters
    ----------
    html : str
        Content of a page.
    anchors : Anchors
    address : callable
        From the path of a page to its address as seen from this one, empty for itself.

    Examples
    --------
    >>> anchors = Anchors({"BN-RUN-3": "spec/running.md#bn-run-3"}, {})
    >>> linked("<p>See BN-RUN-3.</p>", anchors, lambda uri: uri.replace(".md", ".html"))
    '<p>See <a class="clause" href="spec/running.html#bn-run-3">BN-RUN-3</a>.</p>'
    """

    def link(kind: str, uri: str, text: str) -> str:
        page, mark, anchor = uri.partition("#")
        target = f"{address(page)}{mark}{anchor}"
        return f'<a class="{kind}" href="{target}">{text}</a>' if target else text  # no link from a page to itself

    def clause(found: re.Match[str]) -> str:
        uri = anchors.clauses.get(found.group())
        return link("clause", uri, found.group()) if uri else found.group()

    pieces, inside, before = [], dict.fromkeys((*_OPAQUE, "pre"), 0), ""
    for piece in _TOKEN.split(html):
        tag = _TAG.match(piece)
        if tag and tag["name"] in inside and not piece.endswith("/>"):
            inside[tag["name"]] += -1 if tag["end"] else 1
        if not piece.startswith("<") and not any(inside[name] for name in _OPAQUE):
            uri = _address_of(entities.unescape(piece), anchors) if before == "<code>" and not inside["pre"] else None
            piece = link("name", uri, piece) if uri else _CLAUSE.sub(clause, piece)
        pieces.append(piece)
        before = piece
    return _scrolling("".join(pieces))


def _address_of(text: str, anchors: Anchors) -> str | None:
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    names = [found["name"], *(f"{module}.{found['name']}" for module in anchors.modules)]
    return next((anchors.names[name] for name in names if name in anchors.names), None)


def _scrolling(html: str) -> str:
    """Return the page with plain tables inside of an element that can be wider than the page."""
    return html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
