"""Report of a conversion as text: what moved, what changed in value and by how much, what the target cannot hold."""

from bnspec._conversion.checkpoint import Converted
from bnspec._table import table

__all__ = ["report"]

#: Most names of arrays that were left as they are.
SHOWN = 10


def report(converted: Converted) -> str:
    """Return the table and the remarks.

    Variables that only moved are one row for each layer; everything else is a row of its own.
    """
    rows = [("layer", "becomes", "what", "which", "as", "by how much, or why")]
    for layer in dict.fromkeys((before, after) for before, after, _ in converted.changes):
        changes = [change for before, after, change in converted.changes if (before, after) == layer]
        plain = [change for change in changes if change.what == "moved"]
        if plain:
            fields, names = (", ".join(values) for values in zip(*((c.field, c.variable) for c in plain)))
            rows.append((*layer, "moved", fields, names, ""))
        rows += [(*layer, c.what, c.field, c.variable or "-", c.size) for c in changes if c.what != "moved"]
    for name, shape, place, new_shape in converted.placed:
        axes = "" if place.axes is None else f"axes {', '.join(map(str, place.axes))}"
        rows.append((name, place.name, "placed", _shape(shape), _shape(new_shape), axes))
    lines = [table([tuple(cell or "-" for cell in row[:5]) + row[5:] for row in rows]), ""]
    number = len(converted.untouched)
    moved = f"{len(converted.placed)} other arrays placed, " if converted.placed else ""
    lines.append(f"{len(converted.layers)} layers converted, {moved}{number} other arrays left as they are.")
    if converted.untouched:
        more = f" and {number - SHOWN} more" if number > SHOWN else ""
        lines.append(f"Left as they are: {', '.join(converted.untouched[:SHOWN])}{more}.")
    return "\n".join([*lines, *converted.remarks])


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one"
