"""Template: a checkpoint of the target's own model, whose layers are given the values."""

from typing import Any

from bnspec._conversion.checkpoint import Checkpoint, Converted
from bnspec._conversion.layers import find_layers
from bnspec._dialect import Dialect
from bnspec._errors import refusal

__all__ = ["into_template"]


def into_template(converted: Converted, template: Checkpoint, row: Dialect) -> None:
    """Put the converted layers into the template's arrays, and keep all others of the template.

    Raises
    ------
    ValueError
        If the template has no layer of a name, or a variable of another shape [BN-STATE-5].
    """
    there = {layer.name: layer.variables for layer in find_layers(template.arrays, row)}
    absent = [name for name in converted.layers if name not in there]
    if absent:
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"layers {', '.join(map(repr, absent[:5]))} that the template does not have",
            expected=f"its layers {', '.join(map(repr, list(there)[:20]))}",
            do="Give layers their names in the template (--rename OLD=NEW), or leave some out (--only).",
        )
    arrays = dict(template.arrays)
    untouched = {*converted.untouched, *converted.places.values()}
    for name in converted.places.values():
        if name not in arrays:
            raise _differs(name, "no place in the template", "the name of one of its arrays")
        _put(arrays, name, converted.arrays[name], name)
    for layer in find_layers([name for name in converted.arrays if name not in untouched], row):
        own = there[layer.name]
        if set(own) - set(row.storage.switches) != set(layer.variables):
            raise _differs(layer.name, f"the variables {sorted(layer.variables)}", f"{sorted(own)}, as in the template")
        for variable, full in layer.variables.items():
            _put(arrays, own[variable], converted.arrays[full], full)
    left = [name for name in there if name not in converted.layers]
    if left:
        converted.remarks.append(f"the template's layers {', '.join(left[:5])} keep their own values.")
    if converted.untouched:
        number = len(converted.untouched)
        converted.remarks.append(f"{number} other arrays of the source are left out: the template's file has its own.")
    theirs = {full for own in there.values() for full in own.values()} | set(converted.places.values())
    converted.untouched[:] = [name for name in arrays if name not in theirs]
    converted.arrays = arrays
    converted.layers = template.layers | converted.layers


def _put(arrays: dict[str, Any], place: str, value: Any, name: str) -> None:
    """Put a value in the place of an array of the template, which is like it."""
    old = arrays[place]
    if value.shape != old.shape:
        raise _differs(name, f"shape {value.shape}", f"shape {old.shape}, as in the template")
    if value.dtype != old.dtype:
        raise _differs(name, f"dtype {value.dtype}", f"dtype {old.dtype}, as in the template")
    arrays[place] = value


def _differs(name: str, got: str, expected: str) -> Exception:
    do = "The template may be of another model."
    return refusal(ValueError, "BN-STATE-5", got=f"{name!r} has {got}", expected=expected, do=do)
