"""Storage of a layer: under which names, in which form and with which words each framework keeps it.

One record per framework, which its row in `bnspec.dialects` points to. Converting a checkpoint reads these records and
knows no framework by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["STORED", "Storage"]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Form in which one framework stores a layer of batch normalization.

    Attributes
    ----------
    separator : str
        Stands between the names of modules, and before that of a variable.
    collections : mapping
        Our field names to the collection that a variable's full name begins with, such as "params".
    inner : str
        A part that full names of the running state have between the layer and the variable, such as "~".
    averages : mapping
        "mean" and "var" to the names under which a debiased average is kept beside its accumulator.
    counters : tuple of str
        Variables that hold the number of updates; one number each. Empty where none is kept.
    counter_dtype : str
        Their dtype.
    channel_counter : str or None
        The variable of shape (C,) that holds it instead, which only layers that count have.
    shared_reference : bool
        Whether a layer of renorm may take the running mean and deviation for its reference.
    new_flag : str or None
        A variable that is true until the first update.
    switches : tuple of str
        Values of the layer that a file may hold though they are no variables of it.
    affine : {"each", "both", "always"}
        Whether gamma and beta may be absent each by itself, only both, or never.
    keeps_axes : bool
        Whether variables have the rank of x, with length 1 on all axes but the channels'.
    numbered : tuple of str
        Our field names in the order in which a file without names numbers those that exist.
    arguments : mapping
        "epsilon", "decay", "center" and "scale" to the arguments of the layer that set them, as far as there are such.
    """

    separator: str = "/"
    collections: Mapping[str, str] = field(default_factory=dict)
    inner: str = ""
    averages: Mapping[str, str] = field(default_factory=dict)
    counters: tuple[str, ...] = ()
    counter_dtype: str = "int64"
    channel_counter: str | None = None
    shared_reference: bool = False
    new_flag: str | None = None
    switches: tuple[str, ...] = ()
    affine: Literal["each", "both", "always"] = "each"
    keeps_axes: bool = False
    numbered: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=lambda: _arguments("epsilon", "momentum"))


def _arguments(epsilon: str, decay: str, center: str = "center", scale: str = "scale") -> Mapping[str, str]:
    return {"epsilon": epsilon, "decay": decay, "center": center, "scale": scale}


_KERAS = Storage(
    numbered=("gamma", "beta", "mean", "var", "stddev", "renorm_mean", "renorm_stddev"),
)

STORED: Mapping[str, Storage] = {
    "bnspec": Storage(channel_counter="count", shared_reference=True, arguments=_arguments("epsilon", "decay")),
    "tensorpack": Storage(),
    "torch": Storage(
        separator=".",
        counters=("num_batches_tracked",),
        affine="both",
        arguments=_arguments("eps", "momentum", "affine", "affine"),
    ),
    "keras": _KERAS,
    "tf_keras": _KERAS,
    "flax": Storage(
        collections={"gamma": "params", "beta": "params", "mean": "batch_stats", "var": "batch_stats"},
        arguments=_arguments("epsilon", "momentum", "use_bias", "use_scale"),
    ),
    "haiku": Storage(
        collections={"gamma": "params", "beta": "params", "mean": "state", "var": "state"},
        inner="~",
        averages={"mean": "mean_ema/average", "var": "var_ema/average"},
        counters=("mean_ema/counter", "var_ema/counter"),
        counter_dtype="int32",
        keeps_axes=True,
        arguments=_arguments("eps", "decay_rate", "create_offset", "create_scale"),
    ),
    "equinox": Storage(
        separator=".",
        new_flag="first_time",
        switches=("inference",),
        affine="both",
        arguments=_arguments("eps", "momentum", "channelwise_affine", "channelwise_affine"),
    ),
    "onnx": Storage(affine="always", arguments={"epsilon": "epsilon", "decay": "momentum"}),
    "mxnet": Storage(separator=".", affine="always"),
    "paddle": Storage(separator=".", arguments={"epsilon": "epsilon", "decay": "momentum"}),
    "chainer": Storage(
        counters=("N",),
        arguments=_arguments("eps", "decay", "use_beta", "use_gamma"),
    ),
    "nnabla": Storage(keeps_axes=True, arguments={"epsilon": "eps", "decay": "decay_rate"}),
    "tinygrad": Storage(
        separator=".",
        counters=("num_batches_tracked",),
        affine="both",
        arguments=_arguments("eps", "momentum", "affine", "affine"),
    ),
    "mlx": Storage(separator=".", affine="both", arguments=_arguments("eps", "momentum", "affine", "affine")),
}
