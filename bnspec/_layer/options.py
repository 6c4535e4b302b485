"""Words that a layer's arguments may be given in: tensorpack's aliases, layouts and update modes."""

from collections.abc import Mapping
from typing import Any

from bnspec._checks.scalars import shown, switch
from bnspec._dialects import Dialect
from bnspec._errors import refusal

__all__ = [
    "ALIASES",
    "EMA_UPDATES",
    "channel_axis_of",
    "from_aliases",
    "is_channels_last",
    "only_keywords",
    "own_decay",
]

#: Other spellings of a layer's arguments: tensorpack's older ones, and TensorFlow's.
ALIASES = {
    "momentum": "decay",
    "use_bias": "center",
    "use_scale": "scale",
    "beta_init": "beta_initializer",
    "gamma_init": "gamma_initializer",
    "use_local_stat": "training",
}

EMA_UPDATES = ("default", "collection", "internal", "skip")

_CHANNELS_LAST = {"channels_last": True, "NHWC": True, "channels_first": False, "NCHW": False}


def from_aliases(given: Mapping[str, Any], aliases: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """Translate aliases into the arguments they stand for.

    Parameters
    ----------
    given : mapping
        The arguments under their own names; those left at None may be given by alias.
    aliases : mapping
        Further arguments that the caller passed by keyword.
    layer : str
        The class's name, for the error text.

    Raises
    ------
    TypeError
        For an unknown word, and for one argument in two spellings.

    Examples
    --------
    >>> from_aliases({"decay": None, "scale": None}, {"momentum": 0.5}, "BatchNorm")
    {'decay': 0.5, 'scale': None}
    """
    values = dict(given)
    for word, value in aliases.items():
        meant = ALIASES.get(word)
        if meant is None or meant not in values:
            raise refusal(
                TypeError,
                "BN-ERR-1",
                got=f"{layer} got the unknown argument {word!r}",
                expected="one of its own, or of the aliases " + ", ".join(ALIASES),
                do="See help(bnspec.BatchNorm).",
            )
        if values[meant] is not None:
            raise refusal(
                TypeError,
                "BN-ERR-1",
                got=f"{layer} got {meant} and its alias {word}",
                expected="one of them",
                do=f"Keep {meant}.",
            )
        if value is not None and meant in ("center", "scale"):  # refused by the word that was written
            value = switch(word, value, "BN-NORM-2", f"It stands for {meant}, which says whether the parameter exists.")
        values[meant] = value
    return values


def own_decay(aliases: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Return the aliases with a momentum that weighs the new value turned into decay's sense [BN-RUN-1].

    Examples
    --------
    >>> from bnspec._dialects import dialects
    >>> own_decay({"momentum": 0.25}, dialects["torch"]), own_decay({"momentum": 0.25}, dialects["keras"])
    ({'momentum': 0.75}, {'momentum': 0.25})
    """
    momentum = aliases.get("momentum")
    if momentum is None:
        return dict(aliases)
    return {**aliases, "momentum": dialect.decay_of(momentum)}


def only_keywords(layer: str, positional: tuple[Any, ...]) -> None:
    """Refuse a layer's arguments by position: other layers take the number of channels there."""
    if positional:
        raise refusal(
            TypeError,
            "BN-SHAPE-2",
            got=f"{layer} got {', '.join(map(shown, positional))} by position",
            expected="arguments by keyword, such as axis=1",
            do="The number of channels is no argument: it is learned from x at the first call. The channel axis is "
            "axis=...",
        )


def channel_axis_of(axis: int | None, data_format: str | None, rank: int, default: int = -1) -> int:
    """Return the channel axis a layer uses for x of this rank [BN-SHAPE-2].

    Without an explicit axis, rank 2 has its channels on axis 1 and any other rank where data_format says;
    without a data_format, on the default axis.

    Examples
    --------
    >>> channel_axis_of(None, "NHWC", 4), channel_axis_of(None, "NCHW", 4), channel_axis_of(None, "NHWC", 2)
    (3, 1, 1)
    """
    if axis is not None:
        return axis
    last = default == -1 if data_format is None else is_channels_last(data_format)
    return rank - 1 if last and rank > 2 else 1


def is_channels_last(data_format: str) -> bool:
    """Return whether the layout's name puts the channels last; refuse an unknown name."""
    if not isinstance(data_format, str) or data_format not in _CHANNELS_LAST:
        raise refusal(
            ValueError,
            "BN-SHAPE-2",
            got=f"data_format is {shown(data_format)}",
            expected="one of " + ", ".join(map(repr, _CHANNELS_LAST)),
            do="Or pass axis= itself.",
        )
    return _CHANNELS_LAST[data_format]
