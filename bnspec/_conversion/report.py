"""Report of a conversion as text: what moved, what changed in value and by how much, what the target cannot hold."""

from bnspec._conversion.checkpoint import Converted
from bnspec._table import table

__all__ = ["report"]


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
    lines = [table([tuple(cell or "-" for cell in row[:5]) + row[5:] for row in rows]), ""]
    number = len(converted.untouched)
    moved = f"{len(converted.places)} other arrays placed, " if converted.places else ""
    lines.append(f"{len(converted.layers)} layers converted, {moved}{number} other arrays left as they are.")
    return "\n".join([*lines, *(remark[:1].upper() + remark[1:] for remark in converted.remarks)])
