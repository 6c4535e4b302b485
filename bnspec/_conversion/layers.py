"""Finding layers: which arrays of a flat or nested checkpoint are variables of a layer of batch normalization.

A layer is there where its running mean and running variance are. Its name is what their full names have in common,
without what only wraps it: the collection of flax ("params"), the "module." of torch's DataParallel, the ":0" of
TensorFlow.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from bnspec._dialect import Dialect
from bnspec._errors import refusal

__all__ = ["Found", "RENORM", "find_layers", "flat", "flat_arrays", "full_name", "nested"]

#: Fields that only a layer with renorm has.
RENORM = ("stddev", "renorm_mean", "renorm_stddev")

#: What torch's DataParallel and torch.compile put before the names of a model.
_WRAPPERS = ("module.", "_orig_mod.")


class Found(NamedTuple):
    """One layer of a checkpoint."""

    name: str  # with the source's separators
    variables: dict[str, str]  # the framework's own names, such as "running_mean", to full names


def flat(tree: Mapping[Any, Any], separator: str) -> dict[str, Any]:
    """Return the leaves of a nested mapping under joined names; a flat one as it is.

    Raises
    ------
    ValueError
        If two leaves have one name [BN-STATE-5].

    Examples
    --------
    >>> flat({"params": {"bn": {"scale": 1}}, "step": 2}, "/")
    {'params/bn/scale': 1, 'step': 2}
    """
    found: dict[str, Any] = {}
    for name, value in _leaves(tree, separator):
        if name in found:
            raise refusal(
                ValueError,
                "BN-STATE-5",
                got=f"two arrays of the name {name!r}",
                expected="one array of each name",
                do="Rename one of them in the source.",
            )
        found[name] = value
    return found


def flat_arrays(tree: Mapping[Any, Any], separator: str) -> dict[str, Any]:
    """Return the leaves of a nested mapping that are arrays, as NumPy's, under joined names; numbers are left out."""
    import numpy as np

    return {name: np.asarray(leaf) for name, leaf in flat(tree, separator).items() if hasattr(leaf, "dtype")}


def nested(arrays: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Return arrays nested at the separators of their names: what `flat` makes flat.

    Raises
    ------
    ValueError
        If one array's name is the beginning of another's.

    Examples
    --------
    >>> nested({"params/bn/scale": 1, "step": 2}, "/")
    {'params': {'bn': {'scale': 1}}, 'step': 2}
    """
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split(separator)
        at = found
        for part in above:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise _inside(f"{name!r}, which lies inside of another array")
        if last in at:
            raise _inside(f"{name!r}, inside of which other arrays lie")
        at[last] = array
    return found


def _inside(got: str) -> Exception:
    return refusal(
        ValueError,
        "BN-STATE-5",
        got=f"an array of the name {got}",
        expected="names none of which is the beginning of another",
        do="Give layers other names (--rename OLD=NEW), or other arrays (--others).",
    )


def _leaves(tree: Mapping[Any, Any], separator: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            for name, leaf in _leaves(value, separator):
                yield f"{key}{separator}{name}", leaf
        else:
            yield str(key), value


def find_layers(names: Iterable[str], row: Dialect, only: Sequence[str] = ()) -> list[Found]:
    """Return the layers of a flat checkpoint in the order in which they begin.

    Parameters
    ----------
    names : iterable of str
        Full names of all arrays.
    row : Dialect
        The framework that wrote them.
    only : sequence of str
        Patterns of layers' names, such as "encoder*"; without any, all layers.

    Raises
    ------
    ValueError
        If a layer has a part only of what it needs, or two layers have one name [BN-STATE-5].

    Examples
    --------
    >>> from bnspec import dialects
    >>> names = ["conv1/W:0", "conv1/bn/gamma:0", "conv1/bn/mean/EMA:0", "conv1/bn/variance/EMA:0"]
    >>> find_layers(names, dialects.tensorpack)[0].variables["mean/EMA"]
    'conv1/bn/mean/EMA:0'
    """
    known = sorted(_variables(row), key=len, reverse=True)
    mean, var = row.names["mean"], row.names["var"]
    if row.renorm_names is not None:
        pairs = [(mean, var), (row.renorm_names["mean"], row.renorm_names["var"])]
    else:
        pairs = [(mean, var)]
    if row.storage.averages:
        pairs.append((row.storage.averages["mean"], row.storage.averages["var"]))
    groups: dict[str, dict[str, str]] = {}
    for full in names:
        layer, variable = _split(full, row, known)
        if variable is None or (only and not any(fnmatchcase(layer, pattern) for pattern in only)):
            continue
        group = groups.setdefault(layer, {})
        if variable in group:
            raise refusal(
                ValueError,
                "BN-STATE-5",
                got=f"two layers of the name {layer!r}: {group[variable]!r} and {full!r}",
                expected="one",
                do="Remove or rename one of them, or choose layers by name.",
            )
        group[variable] = full
    return [Found(layer, group) for layer, group in groups.items() if _whole(layer, group, pairs, row)]


def _whole(layer: str, group: dict[str, str], pairs: list[tuple[str, str]], row: Dialect) -> bool:
    """Return whether the variables make a layer, and refuse a part of the running state."""
    if any(mean in group and var in group for mean, var in pairs):
        return True
    # Other layers have variables of these names too.
    shared = {row.names["gamma"], row.names["beta"], *row.storage.switches}
    rest = sorted(full for variable, full in group.items() if variable not in shared)
    if not rest:
        return False
    mean, var = pairs[0]
    raise refusal(
        ValueError,
        "BN-STATE-5",
        got=f"layer {layer!r} has {', '.join(map(repr, rest))} and not both {mean!r} and {var!r}",
        expected="the running mean and the running variance of each layer",
        do="Load another copy, or choose the layers to convert by name.",
    )


def _variables(row: Dialect) -> set[str]:
    """All names that variables of a layer have in this framework."""
    stored = row.storage
    found = {row.names[field] for field in ("gamma", "beta", "mean", "var")}
    found |= {*stored.averages.values(), *stored.counters, *stored.switches}
    found |= {name for name in (stored.channel_counter, stored.new_flag) if name is not None}
    return found | set((row.renorm_names or {}).values())


def _split(full: str, row: Dialect, known: list[str]) -> tuple[str, str | None]:
    """Return the layer's name and the variable's, or None of an array that no layer has."""
    stored = row.storage
    separator = stored.separator
    name = full.removesuffix(":0")
    for wrapper in _WRAPPERS if separator == "." else ():
        name = name.removeprefix(wrapper)
    first, _, rest = name.partition(separator)
    if rest and first in stored.collections.values():
        name = rest
    for variable in known:
        if name == variable:
            return "", variable
        if name.endswith(separator + variable):
            layer = name[: -len(separator + variable)]
            layer = layer.removesuffix(separator + stored.inner) if stored.inner else layer
            return "" if layer == stored.inner else layer, variable
    return name, None


def full_name(layer: str, field: str, variable: str, row: Dialect) -> str:
    """Return the name of a layer's variable in a checkpoint of a framework.

    Examples
    --------
    >>> from bnspec import dialects
    >>> full_name("net/bn", "mean", "mean_ema/hidden", dialects.haiku)
    'state/net/bn/~/mean_ema/hidden'
    """
    stored = row.storage
    state = field not in ("gamma", "beta")
    collection = stored.collections.get(field, stored.collections.get("mean", "") if state else "")
    inner = stored.inner if state else ""
    return stored.separator.join(part for part in (collection, layer, inner, variable) if part)
