"""The words a layer's arguments may be given in: the seed's aliases, layouts, initializers and update modes."""

import numbers
from collections.abc import Mapping
from typing import Any

from array_api_compat import device

from bnspec._creation import beside, full
from bnspec._devices import on_device_of
from bnspec._dialects import Dialect
from bnspec._errors import refusal
from bnspec._namespace import array_namespace
from bnspec._precision import dtype_name, is_array, library, statistics_dtype, stop_gradient
from bnspec._scalars import shown, switch
from bnspec._types import Array

__all__ = [
    "ALIASES",
    "EMA_UPDATES",
    "channel_axis_of",
    "check_initializer",
    "constant",
    "flag",
    "from_aliases",
    "initialize",
    "is_channels_last",
    "only_keywords",
    "own_decay",
    "to_numpy",
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
        What else the caller passed by keyword.
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


def flag(what: str, value: Any, clause: str, do: str) -> bool:
    """Return a switch as a Python bool; refuse what is only true or false to Python, such as "False" or 1."""
    return switch(what, value, clause, do)


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
    """Whether the layout's name puts the channels last; refuse an unknown name."""
    if not isinstance(data_format, str) or data_format not in _CHANNELS_LAST:
        raise refusal(
            ValueError,
            "BN-SHAPE-2",
            got=f"data_format is {shown(data_format)}",
            expected="one of " + ", ".join(map(repr, _CHANNELS_LAST)),
            do="Or pass axis= itself.",
        )
    return _CHANNELS_LAST[data_format]


def check_initializer(initializer: Any, what: str) -> None:
    """Refuse what cannot give a parameter's values."""
    if initializer is None or callable(initializer) or is_array(initializer):
        return
    if isinstance(initializer, list | tuple | numbers.Real) and not isinstance(initializer, bool):
        return
    raise refusal(
        TypeError,
        "BN-SHAPE-6",
        got=f"{what} is or returned a {type(initializer).__name__}",
        expected="None, a number, an array or a callable that returns one of these",
        do="Pass the values themselves.",
    )


@on_device_of("like")
def initialize(initializer: Any, default: float, channels: int, like: Array, what: str) -> Array:
    """Make a parameter of shape (C,) beside `like`.

    The initializer is None (the default value), a number, an array of shape (C,), or a callable that takes the
    shape and returns one of these. Arrays are copied, except tensors of torch that are to be trained.
    """
    if callable(initializer) and not is_array(initializer):
        initializer = initializer((channels,))
    if initializer is None:
        initializer = default
    dtype = statistics_dtype(like)
    check_initializer(initializer, what)
    if isinstance(initializer, numbers.Real):
        return full((channels,), float(initializer), dtype=dtype, like=like)
    if getattr(initializer, "requires_grad", False) and getattr(initializer, "is_leaf", False):
        made = _leaf(initializer, like, dtype, what)
    else:
        made = constant(initializer, like, dtype)
    if tuple(made.shape) != (channels,):
        raise refusal(
            ValueError,
            "BN-SHAPE-6",
            got=f"{what} gave shape {tuple(made.shape)}",
            expected=f"shape ({channels},)",
            do="Return one value per channel.",
        )
    return made


def _leaf(parameter: Array, like: Array, dtype: Any, what: str) -> Array:
    """A tensor that torch is to train: the layer's own parameter, since an optimizer knows no copy of it."""
    if library(like) == "torch" and parameter.dtype == dtype and device(parameter) == device(like):
        return parameter
    raise refusal(
        TypeError,
        "BN-ERR-3",
        got=f"{what} is a {dtype_name(parameter.dtype)} tensor on {device(parameter)} that requires grad",
        expected=f"a {dtype_name(dtype)} tensor beside x, a {library(like)} array on {device(like)}",
        do="A tensor that is trained is not copied. Convert it first, or detach it to give its values alone.",
    )


@on_device_of("like")
def constant(values: Any, like: Array, dtype: Any) -> Array:
    """Copy an array of any library, or nested lists, to like's library and device."""
    xp = array_namespace(like)
    if is_array(values):
        if array_namespace(values) is not xp:
            values = to_numpy(values)
            if dtype_name(values.dtype) == "bfloat16":  # ml_dtypes' type is unknown to the other library
                values = values.astype("float32")
        values = xp.asarray(stop_gradient(values), **beside(like), copy=True)
    else:
        values = xp.asarray(values, **beside(like))
    return xp.astype(values, dtype)


def to_numpy(x: Array) -> Any:
    """Copy an array to the host as NumPy's, through its backend."""
    from bnspec._discovery import get_backend

    name = library(x)
    return get_backend("strict" if name == "array_api_strict" else name).to_numpy(x)
