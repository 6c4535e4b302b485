"""Templates of ``new-port`` with right functions in place of those that are to be written."""

from pathlib import Path

__all__ = ["filled"]

#: What begins the first function of part 2, what begins the last, what ends it, and the options of the scope.
_PLACES = {
    ".mjs": ("function forward(", "function backward(", "\n}\n", "  options: {},"),
}
#: The options that the right functions have.
_OPTIONS = {".mjs": '  options: { averaging: ["exponential"], nonfinite: ["propagate"] },'}


def filled(path: Path) -> None:
    """Replace part 2 of a file that ``new-port`` has written, and narrow its scope to what the functions do.

    Parameters
    ----------
    path : Path
        Its suffix says which of the files in the folder ``ports`` has the functions.
    """
    text = path.read_text(encoding="utf-8")
    functions = (Path(__file__).parent / "ports" / f"functions{path.suffix}").read_text(encoding="utf-8")
    first, last, end, options = _PLACES[path.suffix]
    start, stop = text.index(first), text.index(end, text.index(last)) + len(end)
    assert text.count(options) == 1
    text = text[:start] + functions + text[stop:]
    path.write_text(text.replace(options, _OPTIONS[path.suffix]), encoding="utf-8")
