"""Converting all layers of batch normalization in a checkpoint, and leaving every other array as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnspec._conversion.layers import Found, find_layers, full_name
from bnspec._conversion.options import Options
from bnspec._conversion.others import Place, Placed, checked_places, placed
from bnspec._conversion.reading import read_layer
from bnspec._conversion.variance import Count, Variance, moves_later
from bnspec._conversion.writing import Change, checked_place, write_layer
from bnspec._dialect import Dialect
from bnspec._errors import refusal

__all__ = ["Checkpoint", "Converted", "convert_checkpoint"]


@dataclass
class Checkpoint:
    """Content of a file: arrays by full names, in order, and what is known of layers besides."""

    arrays: dict[str, Any]  # NumPy arrays
    layers: dict[str, Options] = field(default_factory=dict)  # by the layers' names, with the framework's separators


@dataclass
class Converted:
    """Checkpoint of the target, and the report."""

    arrays: dict[str, Any]
    layers: dict[str, Options]
    changes: list[tuple[str, str, Change]]  # source's layer, target's layer, change
    untouched: list[str]  # full names of the arrays that no layer has
    remarks: list[str]  # sentences on what a user has to know besides
    placed: list[Placed] = field(default_factory=list)  # other arrays that were given a place


def convert_checkpoint(
    given: Checkpoint,
    source: Dialect,
    target: Dialect,
    *,
    count: Count = None,
    rank: int = 4,
    axis: int | None = None,
    only: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    others: Mapping[str, Place] | None = None,
) -> Converted:
    """Convert every layer.

    Parameters
    ----------
    given : Checkpoint
        Of the source.
    source, target : Dialect
        The frameworks.
    count, rank, axis
        As of `bnspec.convert`; the decay of each layer is the one of its options, or else the source's default.
    only : sequence of str
        Patterns of names; other layers are left as they are.
    rename : mapping of str to str
        Layers' names in the source to those in the target.
    others : mapping of str to Place
        Names and axes of arrays that belong to no layer; without a place an array is left as it is.

    Raises
    ------
    ValueError, TypeError
        If no layer is there, or one cannot be converted, with the array's full name; nothing is written [BN-STATE-5].
    """
    found = find_layers(given.arrays, source, only)
    rename, others = dict(rename or {}), dict(others or {})
    _check(found, given, source, rename, only)
    rank, axis = checked_place(rank, target.axis if axis is None else axis)
    taken = {full: layer for layer in found for full in layer.variables.values()}
    free = [full for full in given.arrays if full not in taken]
    checked_places(others, free)
    result = Converted({}, {}, [], [full for full in free if full not in others], [])
    done: set[str] = set()
    remarks: dict[str, list[str]] = {}
    for full, array in given.arrays.items():
        layer = taken.get(full)
        if layer is None and full in others:
            moved = placed(full, array, others[full])
            result.placed.append(Placed(full, array.shape, others[full], moved.shape))
            _put(result.arrays, others[full].name, moved)
        elif layer is None:
            _put(result.arrays, full, array)
        elif layer.name not in done:
            done.add(layer.name)
            name = rename.get(layer.name, layer.name.replace(source.storage.separator, target.storage.separator))
            made = _one(layer, name, given, source, target, (count, rank, axis), result, remarks)
            for variable_name, value in made.items():
                _put(result.arrays, variable_name, value)
    result.remarks += [f"{_names(layers)}: {remark}." for remark, layers in remarks.items()]
    return result


def _one(
    layer: Found,
    name: str,
    given: Checkpoint,
    source: Dialect,
    target: Dialect,
    how: tuple[Count, int, int],
    result: Converted,
    remarks: dict[str, list[str]],
) -> dict[str, Any]:
    """Convert one layer, write into the report, and return its variables by full names."""
    count, rank, axis = how
    epsilon, decay = _numbers(layer, given, source, remarks)
    variables = {variable: given.arrays[full] for variable, full in layer.variables.items()}
    fields = read_layer(variables, source, decay=decay, called=layer.variables)
    dtype = fields["var"].dtype.name
    variance = Variance(
        source.correction_of(rank=rank, dtype=dtype), target.correction_of(rank=rank, dtype=dtype), count
    )
    fields["var"], change = variance.applied(fields["var"], epsilon)
    if variance.kept and count is None:
        remarks.setdefault(moves_later(variance.before, variance.after), []).append(layer.name)
    made, changes = write_layer(fields, target, decay=decay, rank=rank, axis=axis)
    if change is not None:
        at = next(i for i, c in enumerate(changes) if c.field == "var" and c.what == "moved")
        changes[at] = change._replace(variable=changes[at].variable)
    for switch in set(layer.variables) & set(source.storage.switches):
        changes.append(Change(switch, "", "dropped", "a switch of the layer, and no variable"))
    if name in result.layers:
        raise _twice(name, "layers")
    held = {target.names[field] for field in ("gamma", "beta")} & set(made)
    result.layers[name] = Options(epsilon, decay, target.names["beta"] in held, target.names["gamma"] in held)
    result.changes += [(layer.name, name, change) for change in changes]
    by_variable = {target.names[f]: f for f in ("gamma", "beta")}
    return {full_name(name, by_variable.get(v, "mean"), v, target): array for v, array in made.items()}


def _numbers(layer: Found, given: Checkpoint, source: Dialect, remarks: dict[str, list[str]]) -> tuple[float, float]:
    """Return a layer's epsilon and decay, and remark on those that had to be taken from the source's defaults."""
    known = given.layers.get(layer.name, Options())
    words = source.storage.arguments
    assumed = {}
    if known.epsilon is None:
        assumed[words["epsilon"]] = source.epsilon
    if known.decay is None:
        assumed[words["decay"]] = source.momentum_of(source.decay)
    if assumed:
        told = " and ".join(f"{argument}={value:g}" for argument, value in assumed.items())
        text = f"the source does not say {' and '.join(assumed)}; taken are {source.name}'s defaults, {told}"
        remarks.setdefault(text, []).append(layer.name)
    return (
        source.epsilon if known.epsilon is None else known.epsilon,
        source.decay if known.decay is None else known.decay,
    )


def _put(arrays: dict[str, Any], name: str, value: Any) -> None:
    if name in arrays:
        raise _twice(name, "arrays")
    arrays[name] = value


def _twice(name: str, what: str) -> Exception:
    return refusal(
        ValueError,
        "BN-STATE-5",
        got=f"two {what} of the target that would be called {name!r}",
        expected="one of each name",
        do="Give layers other names (--rename OLD=NEW), or other arrays (--others).",
    )


def _check(
    found: list[Found], given: Checkpoint, source: Dialect, rename: Mapping[str, str], only: Sequence[str]
) -> None:
    names = [layer.name for layer in found]
    if not found and only and (every := find_layers(given.arrays, source)):
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"no layer whose name is like {' or '.join(map(repr, only))}",
            expected=f"a pattern of one of the layers {_names([layer.name for layer in every])}",
            do="A pattern is of the whole name, in which * stands for anything.",
        )
    if not found:
        wanted = [source.names["mean"], source.names["var"]]
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"{len(given.arrays)} arrays, none of them a layer of {source.name}",
            expected=f"names that end in {wanted[0]} and {wanted[1]}",
            do="Name the framework that wrote it; for numbered variables, name the layers in a file of options.",
        )
    unknown = sorted(set(rename) - set(names))
    if unknown:
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"new names for {', '.join(map(repr, unknown))}",
            expected=f"one of the layers {_names(names)}",
            do="Layers are named as in the source.",
        )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(name or "the only layer" for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
