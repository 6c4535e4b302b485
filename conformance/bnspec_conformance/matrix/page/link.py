"""Links to findings: those of the waivers, beside a folder of documents; anything that is no such link stays a text."""

import re
from posixpath import normpath
from urllib.parse import urlsplit

from bnspec._printable import printable

__all__ = ["base_problem", "finding_link"]

#: Neither a scheme, nor a host, nor the root of a disk.
_BESIDE = re.compile(r"(?![/\\])[^:\\\s]+")


def finding_link(link: str, base: str) -> str | None:
    """Return the address of a finding, or None where the text of a waiver is none that a page should lead to.

    Parameters
    ----------
    link : str
        As the waiver has it: an address on the web, or a path from ``docs/``, such as ``findings/a.md``.
    base : str
        The folder ``docs/`` as the page sees it: empty if it lies there, a path such as ``../docs``, or an address.

    Examples
    --------
    >>> finding_link("findings/a.md", "https://example.org/docs")
    'https://example.org/docs/findings/a.md'
    >>> finding_link("javascript:alert(1)", "") is finding_link("../../etc/passwd", "") is None
    True
    """
    if link != printable(link, lines=False) or not link:
        return None
    if link.startswith(("https://", "http://")):
        return link if _has_host(link) else None
    if not _BESIDE.fullmatch(link) or normpath(link).startswith(".."):
        return None
    return f"{base.rstrip('/')}/{link}" if base else link


def base_problem(base: str) -> str | None:
    """Return None, or why a folder of documents cannot be linked to, and what to do.

    Parameters
    ----------
    base : str
        As `finding_link` takes it.
    """
    web = base.startswith(("https://", "http://"))
    if not base or (_has_host(base) if web else _BESIDE.fullmatch(base)):
        return None
    return f"--docs is {base!r}; expected a path as the page sees it, such as ../docs, or an address with http(s)://."


def _has_host(address: str) -> bool:
    try:
        return bool(urlsplit(address).hostname) and not re.search(r"\s", address)
    except ValueError:
        return False
