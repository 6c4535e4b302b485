"""Templates of the pages: every value that comes from elsewhere is text in them, and steers nothing."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from bnspec._printable import printable

__all__ = ["part", "render"]

_FOLDER = files("bnspec_conformance.report.pages")


def part(name: str) -> Any:
    """Return a style or a script of this folder, to be put into a page as it is."""
    from markupsafe import Markup

    return Markup(_FOLDER.joinpath(name).read_text("utf-8"))


def render(name: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """Return the page that a template of this folder makes of some values.

    Parameters
    ----------
    name : str
        Of the template.
    filters : mapping of str to callable
    **values : Any
        Texts are escaped, and their control characters become escapes.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
        loader=jinja2.FunctionLoader(lambda which: _FOLDER.joinpath(which).read_text("utf-8")),
    )
    environment.filters |= filters
    return environment.get_template(name).render(**values)


def _seen(value: Any) -> Any:
    """Return a value of the page; texts come from subjects and files, and may hold what no page should."""
    return printable(value) if type(value) is str else value
