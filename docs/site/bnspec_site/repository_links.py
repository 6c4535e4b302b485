"""Links between files of the repository, turned into links between pages of the site."""

import posixpath
import re
from collections.abc import Callable

__all__ = ["relinked"]

_CODE = re.compile(
    r"(^ {0,12}(?P<marks>```+|~~~+).*?^ {0,12}(?P=marks)\s*?$|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))",
    re.M | re.S,
)
_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")


def relinked(text: str, source: str, uri: str, page_of: Callable[[str, str], str]) -> str:
    """Return a page with its links to other files as links within the site.

    Parameters
    ----------
    text : str
        Markdown.
    source : str
        Path of the file in the repository.
    uri : str
        Path of its page in the site.
    page_of : callable
        From a path in the repository and an anchor, which may be empty, to a path in the site with its anchor.
    """

    def replaced(link: re.Match[str]) -> str:
        target = link["target"]
        if re.match(r"[a-z]+:|#", target):
            return link.group()
        path, _, anchor = target.partition("#")
        found = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)), anchor)
        page, mark, anchor = found.partition("#")
        return f"]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{mark}{anchor})"

    parts, at = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(replaced, text[at : code.start()]), code.group()]
        at = code.end()
    return "".join([*parts, _LINK.sub(replaced, text[at:])])
