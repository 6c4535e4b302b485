"""Template: a checkpoint of the target's own model, whose layers are given the values."""

from typing import Any

from bnspec._conversion.checkpoint import Checkpoint, Converted
from bnspec._conversion.layers import find_layers
from bnspec._conversion.options import Options
from bnspec._dialect import Dialect
from bnspec._errors import refusal

__all__ = ["into_template"]

#: Advice where a layer does not fit into the template, and where another array does not.
_MODEL = "The template may be of another model."
_PLACE = "Correct its name or its axes in --others, unless the template is of another model."


def into_template(converted: Converted, template: Checkpoint, row: Dialect) -> None:
    """Put the converted layers into the template's arrays, and keep all others of the template.

    Raises
    ------
    ValueError
        If the template has no layer of a name, or a variable of another shape [BN-STATE-5].
    """
    there = {layer.name: layer.variables for layer in find_layers(template.arrays, row)}
    if not there:
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"a template without a layer of {row.name}",
            expected=f"a file of the target's own model, as {row.name} writes it",
            do="Save the new model once, and pass that file.",
        )
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
    free = set(arrays) - {full for own in there.values() for full in own.values()}
    given = [place.name for _, _, place, _ in converted.placed]
    untouched = {*converted.untouched, *given}
    for name in given:
        if name not in free:
            known = ", ".join(map(repr, sorted(free)[:20])) or "none"
            raise _differs(name, "no place in the template", f"one of its other arrays: {known}", _PLACE)
        _put(arrays, name, converted.arrays[name], name, _PLACE)
    for layer in find_layers([name for name in converted.arrays if name not in untouched], row):
        own = there[layer.name]
        if set(own) - set(row.storage.switches) != set(layer.variables):
            raise _differs(layer.name, f"the variables {sorted(layer.variables)}", f"{sorted(own)}, as in the template")
        for variable, full in layer.variables.items():
            _put(arrays, own[variable], converted.arrays[full], full)
    left = [name for name in there if name not in converted.layers]
    if left:
        converted.remarks.append(f"The template's layers {', '.join(left[:5])} keep their own values.")
    converted.remarks += _other_options(converted, template, row)
    if converted.untouched:
        number = len(converted.untouched)
        converted.remarks.append(f"{number} other arrays of the source are left out: the template's file has its own.")
    theirs = {full for own in there.values() for full in own.values()} | set(given)
    converted.untouched[:] = [name for name in arrays if name not in theirs]
    converted.arrays = arrays
    converted.layers = template.layers | converted.layers


def _other_options(converted: Converted, template: Checkpoint, row: Dialect) -> list[str]:
    """Say which epsilon and momentum of the template give way to those of the source."""
    found: dict[str, list[str]] = {}
    for name, options in converted.layers.items():
        own = template.layers.get(name, Options())._replace(center=None, scale=None).in_words_of(row)
        new = options.in_words_of(row)
        changed = [(word, value, new[word]) for word, value in own.items() if word in new and new[word] != value]
        if changed:
            before, after = (", ".join(f"{c[0]}={c[i]:g}" for c in changed) for i in (1, 2))
            found.setdefault(f"the template's {before} becomes {after}", []).append(name)
    return [f"{', '.join(names[:5])}: {text}." for text, names in found.items()]


def _put(arrays: dict[str, Any], place: str, value: Any, name: str, do: str = _MODEL) -> None:
    """Put a value in the place of an array of the template, which is like it."""
    old = arrays[place]
    if value.shape != old.shape:
        raise _differs(name, f"shape {value.shape}", f"shape {old.shape}, as in the template", do)
    if value.dtype != old.dtype:
        raise _differs(name, f"dtype {value.dtype}", f"dtype {old.dtype}, as in the template", do)
    arrays[place] = value


def _differs(name: str, got: str, expected: str, do: str = _MODEL) -> Exception:
    return refusal(ValueError, "BN-STATE-5", got=f"{name!r} has {got}", expected=expected, do=do)
