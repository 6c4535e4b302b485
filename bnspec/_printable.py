"""Text of others, made safe for a screen: what would steer the terminal or the order of reading becomes an escape."""

import re

__all__ = ["printable"]

#: Control characters, marks that turn the direction of reading, line separators, tags, and halves of surrogate pairs.
_STEERING = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f"
)
_ANYWHERE = re.compile(f"[{_STEERING}]")
_IN_A_LINE = re.compile(f"[{_STEERING}\t\n]")


def printable(text: str, *, lines: bool = True) -> str:
    r"""Return the text with its control characters as escapes, such as ``\x1b``.

    Parameters
    ----------
    text : str
        From wherever: a file, a program, a command line, an exception.
    lines : bool
        Whether line ends and tabs may stay; in a name, say, they may not.
    """
    text = text.replace("\r\n", "\n") if lines else text
    return (_ANYWHERE if lines else _IN_A_LINE).sub(lambda found: _escape(found.group()), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
