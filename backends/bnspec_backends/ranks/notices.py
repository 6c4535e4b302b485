"""Notices that ranks send each other beside their collectives: a rank failed, left, or waits."""

from typing import NamedTuple

from bnspec_backends.ranks.facts import error_text

__all__ = ["LAST", "Notice", "end_of"]

#: Kinds of notices after which a rank sends no more about a group.
LAST = ("left", "raised")


class Notice(NamedTuple):
    """Notice of another rank about one group of ranks.

    Attributes
    ----------
    rank : int
        The sender.
    sequence : int
        The last collective of the group that the sender completed; where it waits, the one that it waits in.
    kind : str
        The name of an error type where the group failed; "left" or "raised" where the rank ended, the latter by an
        error; "waits" where it waits.
    text : str
        The error's text, or the facts of the collective as JSON.
    """

    rank: int
    sequence: int
    kind: str
    text: str


def end_of(error: BaseException | None) -> tuple[str, str]:
    """Return kind and text of the notice by which a rank ends."""
    return ("left", "") if error is None else ("raised", error_text(error))
