"""Templates of ``new-port`` with right functions in place of those that are to be written."""

import re
from pathlib import Path

__all__ = ["PAGE", "PORTS", "filled", "functions_of_the_page"]

PORTS = Path(__file__).parent / "ports"
PAGE = Path(__file__).parents[2] / "docs" / "porting.md"

#: What begins the first function of part 2, what begins the last, what ends it, and the options of the scope.
_PLACES = {
    ".mjs": ("function forward(", "function backward(", "\n}\n", "  options: {},"),
    ".rs": ("/// SPEC.md, Moments and", "fn backward(", "\n}\n", '    "options": {},'),
    ".py": ("def forward(", "def backward(", "\n\n\n", '    "options": {},'),
}
#: The options that the right functions have.
_OPTIONS = {
    ".mjs": '  options: { averaging: ["exponential"], nonfinite: ["propagate"] },',
    ".rs": '    "options": {"averaging": ["exponential"], "nonfinite": ["propagate"]},',
    ".py": '    "options": {"averaging": ["exponential"], "nonfinite": ["propagate"]},',
}


def functions_of_the_page() -> str:
    """Return the functions in Python that docs/porting.md shows."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return "\n\n".join(block for block in blocks if block.startswith("def "))


def filled(path: Path, functions: str | None = None) -> None:
    """Replace part 2 of a file that ``new-port`` has written, and narrow its scope to what the functions do.

    Parameters
    ----------
    path : Path
    functions : str, optional
        By default the file in the folder ``ports`` that has the suffix of `path`.
    """
    text = path.read_text(encoding="utf-8")
    if functions is None:
        functions = (PORTS / f"functions{path.suffix}").read_text(encoding="utf-8")
    first, last, end, options = _PLACES[path.suffix]
    start, stop = text.index(first), text.index(end, text.index(last)) + len(end)
    assert text.count(options) == 1
    text = text[:start] + functions.rstrip() + end[-1] * 3 + text[stop:]
    path.write_text(text.replace(options, _OPTIONS[path.suffix]), encoding="utf-8")
