"""Converting the variables of one layer from one framework's names and conventions to another's."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from bnspec._arrays import Array, array_namespace, beside, is_array, library
from bnspec._checks.scalars import real
from bnspec._conversion.layers import find_layers, flat
from bnspec._conversion.reading import read_layer
from bnspec._conversion.variance import Variance, checked_count, moves_later
from bnspec._conversion.writing import checked_place, write_layer
from bnspec._dialects import dialects
from bnspec._errors import ConversionWarning, refusal

__all__ = ["convert"]


def convert(
    named_arrays: Mapping[str, Any],
    *,
    source: str,
    target: str,
    count: int | Literal["keep"] | None = None,
    decay: float | None = None,
    rank: int = 4,
    axis: int | None = None,
) -> dict[str, Array]:
    """Return the variables of one layer as another framework names and keeps them.

    Inference of the target with them, and with the source's epsilon, is that of the source, unless `count` asks for a
    variance of another correction. Arrays that need no change come out with their bits. Epsilon and momentum are no
    variables: ``bnspec.dialects.<target>.config`` and ``momentum_of`` have them in the target's words.

    Parameters
    ----------
    named_arrays : mapping of str to array
        All variables of one layer by the source's names, as its ``state_dict`` has them, of shape (C,), counters of
        shape (), all of one library. Flax's and haiku's collections may be nested in it.
    source, target : str
        Names of dialects, such as "torch" and "flax".
    count : int >= 2, "keep" or None
        Elements of a channel in one batch of training, for frameworks whose running variances differ by their
        correction: the variance becomes ``var*(count - before)/(count - after)``, and inference moves accordingly.
        "keep" leaves the variance as it is, None too, with a warning [BN-RUN-3].
    decay : float in [0, 1], optional
        Weight that the layer's old running value keeps; by default the source's own default. Only debiased averages
        depend on it [BN-RUN-7].
    rank, axis : int
        Rank of x and axis of its channels, in the target; they matter where the target's variables keep x's axes
        (haiku), and where a correction belongs to one rank only (tf_keras, tensorpack).

    Returns
    -------
    dict of str to array
        By the target's names, in the library, on the device and of the dtypes of what was given. Variables that the
        target does not have are left out; those that it needs besides are filled: gamma with 1, beta and counters with
        0. Where no number of updates is kept, a debiased average counts so many that nothing is left to debias.

    Raises
    ------
    LookupError
        For a name that is no dialect [BN-ERR-5].
    ValueError, TypeError
        For arrays that are not those of exactly one layer, naming the array [BN-STATE-5].

    Warns
    -----
    ConversionWarning
        If the variance stays though the target feeds another one, with how far inference moves in the end.

    Notes
    -----
    Computed in float64 on the host, rounded once to each array's dtype.

    References
    ----------
    Ioffe, Szegedy, "Batch Normalization", 2015, algorithm 2 (the corrected variance); Kingma, Ba, "Adam", 2015,
    section 3 (dividing by 1 - decay^t).

    Examples
    --------
    >>> import numpy as np
    >>> kept = {"weight": np.ones(2), "bias": np.zeros(2), "running_mean": np.ones(2), "running_var": np.full(2, 4.0),
    ...         "num_batches_tracked": np.asarray(7)}
    >>> {name: v.tolist() for name, v in convert(kept, source="torch", target="flax", count=4).items()}
    {'scale': [1.0, 1.0], 'bias': [0.0, 0.0], 'mean': [1.0, 1.0], 'var': [3.0, 3.0]}
    """
    before, after = dialects[source], dialects[target]
    number = checked_count(count)
    rank, axis = checked_place(rank, after.axis if axis is None else axis)
    decay = before.decay if decay is None else real(
        "decay", decay, lambda v: 0 <= v <= 1, "a number in [0, 1]", "BN-RUN-1", "It is the weight of the old value."
    )  # fmt: skip
    given = flat(named_arrays, before.storage.separator)
    found = find_layers(given, before)
    strange = sorted(set(given) - {name for layer in found for name in layer.variables.values()})
    if len(found) != 1 or found[0].name or strange:
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"arrays that make {len(found)} layers{_listed(' called ', [f.name for f in found if f.name])}"
            f"{_listed(', and the unknown ', strange)}",
            expected=f"those of one layer of {source}, by names such as {before.names['mean']!r}",
            do="`bnspec convert` finds the layers of a whole checkpoint.",
        )
    (layer,) = found
    like = _like(given)
    arrays = {variable: _to_host(given[full]) for variable, full in layer.variables.items()}
    fields = read_layer(arrays, before, decay=decay, called=layer.variables)
    dtype = fields["var"].dtype.name
    corrections = [row.correction_of(rank=rank, dtype=dtype) for row in (before, after)]
    variance = Variance(corrections[0], corrections[1], number)
    if variance.kept and number is None:
        later = moves_later(variance.before, variance.after)
        advice = 'Pass count=n to convert it, count="keep" if that is meant.'
        warnings.warn(f"{before.names['var']}: {later}. {advice}", ConversionWarning, stacklevel=2)
    fields["var"], _ = variance.applied(fields["var"], before.epsilon)
    made, _ = write_layer(fields, after, decay=decay, rank=rank, axis=axis)
    return {name: _from_host(array, like) for name, array in made.items()}


def _listed(before: str, names: list[str]) -> str:
    shown = [repr(name) for name in names[:5]] + (["..."] if len(names) > 5 else [])
    return before + ", ".join(shown) if shown else ""


def _like(given: Mapping[str, Any]) -> Array:
    """The first array; all others are of its library."""
    for name, value in given.items():
        if not is_array(value):
            raise refusal(
                TypeError,
                "BN-STATE-5",
                got=f"{name!r} is a {type(value).__name__}",
                expected="an array",
                do="Convert it first, for example with numpy.asarray.",
            )
    first, *rest = given.values()
    for name, value in zip(list(given)[1:], rest):
        if library(value) != library(first):
            raise refusal(
                TypeError,
                "BN-ERR-3",
                got=f"{name!r} is an array of {library(value)} beside those of {library(first)}",
                expected="arrays of one library",
                do="Convert it first, for example with numpy.asarray.",
            )
    return first


def _to_host(x: Array) -> Any:
    from bnspec._layer.initializers import to_numpy

    return to_numpy(x)


def _from_host(array: Any, like: Array) -> Array:
    from bnspec._discovery import get_backend

    name = library(like)
    made = get_backend("strict" if name == "array_api_strict" else name).asarray(array)
    return array_namespace(like).asarray(made, **beside(like))
