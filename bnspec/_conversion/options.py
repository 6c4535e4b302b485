"""Options of layers beside a checkpoint: what no array holds, such as epsilon and momentum, as JSON.

The file has the arguments of the framework's own layer, by the layers' names in the checkpoint:

    {"dialect": "flax", "layers": {"conv1/bn": {"epsilon": 0.001, "momentum": 0.99, "use_scale": true}}}

For a file that knows its arrays only by their order, it also has "names", the name of each.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from bnspec._checks.scalars import real, switch
from bnspec._dialect import Dialect
from bnspec._dialects import dialects
from bnspec._errors import refusal
from bnspec._files.json_object import json_object

__all__ = ["Options", "merged", "options_text", "read_options"]


class Options(NamedTuple):
    """Options of one layer in bnspec's words; None of one that is not known."""

    epsilon: float | None = None
    decay: float | None = None
    center: bool | None = None
    scale: bool | None = None

    def over(self, other: "Options") -> "Options":
        """Return these options, and those of another where these do not say.

        Examples
        --------
        >>> Options(epsilon=0.5).over(Options(epsilon=1e-3, decay=0.9))
        Options(epsilon=0.5, decay=0.9, center=None, scale=None)
        """
        return self._replace(**{word: v for word, v in other._asdict().items() if getattr(self, word) is None})

    def in_words_of(self, row: Dialect) -> dict[str, Any]:
        """Return the arguments of the framework's layer.

        Examples
        --------
        >>> from bnspec import dialects
        >>> Options(1e-3, 0.9, True, True).in_words_of(dialects.torch)
        {'eps': 0.001, 'momentum': 0.1, 'affine': True}
        """
        found = {}
        for field, argument in row.storage.arguments.items():
            value = getattr(self, field)
            if value is not None:
                found[argument] = row.momentum_of(value) if field == "decay" else value
        return found

    @classmethod
    def of(cls, layer: str, arguments: Mapping[str, Any], row: Dialect) -> "Options":
        """Return the options that a framework's arguments stand for; other arguments are not looked at."""
        found: dict[str, Any] = {}
        for field, argument in row.storage.arguments.items():
            value = arguments.get(argument)
            if value is None and not (field == "decay" and argument in arguments):
                continue
            name = f"{argument} of layer {layer!r}"
            if field == "epsilon":
                do = "Usual values are 1e-5 and 1e-3."
                found[field] = real(name, value, lambda v: v >= 0, "a finite number >= 0", "BN-NORM-1", do)
            elif field == "decay":
                do = f"It is the weight of the {row.momentum_weighs} value; a cumulative average has none to move."
                number = real(name, value, lambda v: 0 <= v <= 1, "a number in [0, 1]", "BN-RUN-1", do)
                found[field] = row.decay_of(number)
            else:
                found[field] = switch(name, value, "BN-NORM-2", "It says whether the parameter exists.")
        return cls(**found)


def merged(first: Mapping[str, Options], second: Mapping[str, Options]) -> dict[str, Options]:
    """Return the options of all layers; what the first does not say of a layer is taken from the second."""
    return dict(second) | {name: own.over(second.get(name, Options())) for name, own in first.items()}


def read_options(text: str, row: Dialect) -> tuple[dict[str, Options], tuple[str, ...]]:
    """Return the options of each layer, and the names of arrays, of a file as `options_text` writes it.

    Raises
    ------
    ValueError, TypeError
        For text that is no such file, or one of another framework [BN-STATE-5].
    """
    content = json_object(text, "layers", ("dialect", "layers", "names"), _unread)
    if content.get("dialect", row.name) != row.name:
        raise _unread(f"options of the dialect {str(content['dialect'])[:40]!r} for a checkpoint of {row.name}")
    names = content.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _unread('"names" that is no list of strings')
    layers = content.get("layers", {})
    if not all(isinstance(arguments, dict) for arguments in layers.values()):
        raise _unread("a layer whose arguments are no object")
    for layer, arguments in layers.items():
        _refuse_foreign(layer, arguments, row)
    return {layer: Options.of(layer, arguments, row) for layer, arguments in layers.items()}, tuple(names)


def options_text(layers: Mapping[str, Options], row: Dialect) -> str:
    """Return the content of the file."""
    content: dict[str, Any] = {
        "dialect": row.name,
        "layers": {layer: options.in_words_of(row) for layer, options in layers.items()},
    }
    return json.dumps(content, indent=1) + "\n"


def _refuse_foreign(layer: str, arguments: Mapping[str, Any], row: Dialect) -> None:
    """Refuse another framework's word for an option; arguments that are of no option may stand beside them."""
    for other in dialects:
        for field, argument in other.storage.arguments.items():
            if argument in arguments and argument not in row.storage.arguments.values():
                own = row.storage.arguments.get(field)
                word = "no word" if own is None else repr(own)
                raise _unread(f"{argument!r} of layer {layer!r}, for which {row.name} has {word}")


def _unread(got: str) -> Exception:
    return refusal(
        ValueError,
        "BN-STATE-5",
        got=got,
        expected='{"dialect": ..., "layers": {name: {argument: value}}}, as `bnspec convert` writes it',
        do="Name the layers of the source, with the arguments of the source framework.",
    )
