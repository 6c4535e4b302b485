"""Badge of a subject: an image for a page such as a README, which says what may be claimed after a run and no more.

The level comes from the same code as that of a statement, so a known failure counts as a failure, and a run that left
something out shows no level. The words of the whole claim, or the reasons why there is none, are the image's title.
"""

import re
import unicodedata
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bnspec._printable import printable
from bnspec_conformance.cases.scope import PROFILES
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.report.statement import claim_of, level_reached

__all__ = ["badge", "badge_name", "badge_text", "write_badge"]

#: Colour of the right side by the level that is claimed; white text on each has a contrast of at least 4.5.
_COLOURS = {"A": "#7d6608", "AA": "#3f7a14", "AAA": "#1b7a3d"}
_BELOW_A, _NO_CLAIM = "#b3261e", "#5f656e"

#: Reasons against a claim that a title tells; a run may have many stale waivers.
_TOLD = 3

#: What XML cannot hold, beside what `printable` takes out.
_NO_XML = re.compile("[\ufffe\uffff]")

_SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{title}">
<title>{title}</title>
<clipPath id="r"><rect width="{width}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#3c4148"/>\
<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11" text-anchor="middle">\
<text x="{left_middle}" y="14" textLength="{left_text}">{label}</text>\
<text x="{right_middle}" y="14" textLength="{right_text}">{message}</text></g>
</svg>
"""


def badge_text(content: Mapping[str, Any], subject: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what a badge says: its left side, its right side, and its title.

    Parameters
    ----------
    content : mapping
        The report.
    subject : mapping
        One of its ``subjects``.

    Returns
    -------
    label, message, title : str
        "bnspec SPEC 1.0" and, say, "level AA, 5 of 11 profiles"; "level A not reached" where the run shows that, and
        "no claim" where it does not show enough to tell.
    """
    label = f"bnspec SPEC {content.get('specification', 'unknown')}"
    claim = claim_of(content, subject)
    if claim.level is not None:
        own = len(subject["profiles"])
        profiles = "all profiles" if own == len(PROFILES) else f"{own} of {len(PROFILES)} profiles"
        return label, f"level {claim.level}, {profiles}", f"{claim.words}."
    failing = level_reached(content["clauses"], subject["name"]) is None and len(claim.against) == 1
    message = "level A not reached" if failing else "no claim"
    rest = len(claim.against) - _TOLD
    why = "; ".join([*claim.against[:_TOLD], *([f"and {rest} more reasons"] if rest > 0 else [])])
    return label, message, f"{subject['name']} ({subject['version']}), {label}: {message}: {why}."


def badge(content: Mapping[str, Any], subject: Mapping[str, Any]) -> str:
    """Return the badge of one subject of a report, as SVG that asks for nothing from elsewhere.

    Parameters
    ----------
    content : mapping
        The report.
    subject : mapping
        One of its ``subjects``.
    """
    label, message, title = badge_text(content, subject)
    level = claim_of(content, subject).level
    colour = _NO_CLAIM if message == "no claim" else _BELOW_A if level is None else _COLOURS[level]
    left_text, right_text = _width(label), _width(message)
    left, right = left_text + 12, right_text + 12
    return _SVG.format(
        width=left + right,
        left=left,
        right=right,
        left_text=left_text,
        right_text=right_text,
        left_middle=left / 2,
        right_middle=left + right / 2,
        colour=colour,
        label=_xml(label),
        message=_xml(message),
        title=_xml(title),
    )


def write_badge(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the badge of the only subject of a report, whatever it says: a better one of an older run does not stay.

    Parameters
    ----------
    path : str or Path
    content : mapping
        The report.
    """
    (subject,) = content["subjects"]
    write_text(path, badge(content, subject))


def badge_name(name: str) -> str:
    r"""Return the name of the file for a subject's badge: one of its own for each subject, and always in its folder.

    Examples
    --------
    >>> badge_name("flax-linen"), badge_name("exec:../port")
    ('flax-linen.svg', 'exec_.._port-6af2d970.svg')
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,100}", name):
        return f"{name}.svg"
    word = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:100].lstrip(".") or "_"
    return f"{word}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}.svg"


def _width(text: str) -> int:
    """Return about how wide a text is in Verdana of 11 pixels; browsers fit the text to what is told."""
    narrow, wide = set("iljtfr.,:;|!'()[] -1I"), set("mwMW@%")
    sizes = {True: 3.8, False: 6.6}
    return round(
        sum(
            11.0 if c in wide or unicodedata.east_asian_width(c) in "WF" else sizes[c in narrow]
            for c in printable(text, lines=False)
        )
    )


def _xml(text: str) -> str:
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", printable(text, lines=False)), {'"': "&quot;"})
