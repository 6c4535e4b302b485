"""Templates of the pages: every value that comes from elsewhere is text in them, and steers nothing."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from bnspec._printable import printable

__all__ = ["part", "render"]

#: Folder of what the pages share, as a package.
_SHARED = "bnspec_conformance.report.pages"


def part(name: str, folder: str = _SHARED) -> Any:
    """Return a style or a script of a folder, to be put into a page as it is."""
    from markupsafe import Markup

    return Markup(files(folder).joinpath(name).read_text("utf-8"))


def render(name: str, filters: Mapping[str, Callable[..., Any]], folder: str = _SHARED, **values: Any) -> str:
    """Return the page that a template makes of some values.

    Parameters
    ----------
    name : str
        Of the template, which may import others, such as ``icons.html.jinja``.
    filters : mapping of str to callable
    folder : str
        The package that holds the template; those of this folder can be imported in each.
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
        loader=jinja2.ChoiceLoader([jinja2.FunctionLoader(_reader(place)) for place in (folder, _SHARED)]),
    )
    environment.filters |= filters
    return environment.get_template(name).render(**values)


def _reader(folder: str) -> Callable[[str], str | None]:
    """Return what reads a template of a folder, and returns None for one that is not there."""

    def read(name: str) -> str | None:
        path = files(folder).joinpath(name)
        return path.read_text("utf-8") if path.is_file() else None

    return read


def _seen(value: Any) -> Any:
    """Return a value of the page; texts come from subjects and files, and may hold what no page should."""
    return printable(value) if type(value) is str else value
