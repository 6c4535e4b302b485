"""JSON that a user writes: an object with known words."""

import json
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["json_object"]


def json_object(text: str, needed: str, words: Collection[str], refused: Callable[[str], Exception]) -> dict[str, Any]:
    """Return the object that a text is, in which the value of one word is an object itself.

    Parameters
    ----------
    text : str
    needed : str
        The word whose value is an object; an empty one if it is absent.
    words : collection of str
        All words that may be in it.
    refused : callable
        Takes what is wrong, in words, and returns the error that is raised.

    Examples
    --------
    >>> json_object('{"arrays": {}}', "arrays", ["arrays"], ValueError)
    {'arrays': {}}
    >>> json_object('{"arrays": {}, "array": 1}', "arrays", ["arrays"], ValueError)
    Traceback (most recent call last):
    ValueError: the unknown word 'array'
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refused(f"text that is no JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get(needed, {}), dict):
        raise refused(f'JSON without an object "{needed}"')
    if unknown := sorted(set(content) - set(words)):
        raise refused(f"the unknown word {unknown[0]!r}")
    return content
