"""Layout of the site: its pages, the files they are made of, and their order.

`OUTLINE` names the files of the repository that are pages. SPEC.md becomes many pages, docstrings become the reference,
and any other file that a page links to is shown as code or, if it holds data, copied.
"""

import posixpath
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bnspec_site import commands, reference, specification
from bnspec_site.indents import python_markdown
from bnspec_site.repository_links import relinked

__all__ = ["OUTLINE", "ROOT", "Site", "site"]

ROOT = Path(__file__).parents[3]

#: Sections of the navigation, each with the files of its pages. SPEC.md and docs/findings are many pages, and so is
#: "reference", which is no file.
OUTLINE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Port it", (
        "docs/porting.md", "docs/probe.md", "docs/protocol.md", "examples/port-c/README.md",
        "examples/port-js/README.md", "docs/vectors.md", "docs/reports.md", "docs/claims.md", "docs/matrix-page.md",
        "docs/way-of-x.md",
    )),
    ("Train with it", ("docs/numpy.md", "docs/cupy.md", "docs/torch.md", "docs/jax.md", "docs/ranks.md")),
    ("Move a model", ("docs/moving.md",)),
    ("Specification", ("bnspec/SPEC.md",)),
    ("Reference", ("reference",)),
    ("Gallery", ("docs/gallery.md",)),
    ("Evidence", (
        "docs/matrix.md", "docs/findings", "docs/mutants.md", "docs/performance.md", "docs/performance-jax.md",
        "docs/performance-gpu.md", "docs/scaling.md", "docs/devices/README.md",
    )),
    ("Project", ("CHANGELOG.md", "CONTRIBUTING.md", "RELEASING.md")),
)  # fmt: skip
#: The page that a reader of the site begins with: docs/README.md, to which links to README.md lead too.
HOME = "index.md"

_CODE = {".c": "c", ".cu": "cuda", ".md": "markdown", ".py": "python", ".toml": "toml", "": "makefile"}
_DATA = (".json", ".svg", ".png")


@dataclass
class Site:
    """Everything that is built.

    Attributes
    ----------
    pages : dict of str to str
        Markdown by path in the site.
    copied : dict of str to Path
        Files that are no pages, by path in the site.
    navigation : list
        As mkdocs has it.
    clauses, names : dict of str to str
        Address of each clause and family, and of each public name and module.
    modules : dict of str to tuple of str
        Of a page, modules whose names it mentions without the module.
    """

    root: Path
    pages: dict[str, str] = field(default_factory=dict)
    copied: dict[str, Path] = field(default_factory=dict)
    navigation: list[Any] = field(default_factory=list)
    clauses: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    modules: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def page_of(self, path: str, anchor: str) -> str:
        """Return where a link to a file of the repository leads, and take the file into the site if it is no page.

        Raises
        ------
        FileNotFoundError
            For a link to nothing.
        """
        mark = f"#{anchor}" if anchor else ""
        file = self.root / path
        if path == "bnspec/SPEC.md" and anchor:
            pages = specification.contents(file.read_text(encoding="utf-8"))[2]
            return next(page.uri for page in pages if specification.slug_of(page.title) == anchor)
        if not file.exists():
            raise FileNotFoundError(f"a page links to {path}, which is not there")
        uri = uri_of(path)
        if uri not in self.pages and uri not in self.copied:
            self._take(path, uri)
        return uri + mark

    def add(self, path: str) -> str:
        """Take a file of the repository as a page, and return the page's path."""
        uri = uri_of(path)
        self.pages[uri] = ""  # is there, for links to it, before its own links are followed
        text = (self.root / path).read_text(encoding="utf-8")
        self.pages[uri] = python_markdown(relinked(text, path, uri, self.page_of))
        return uri

    def _take(self, path: str, uri: str) -> None:
        file = self.root / path
        if file.is_dir():
            self.pages[uri] = ""
            inside = sorted(f for f in file.iterdir() if f.is_file() and f.suffix in (*_CODE, *_DATA))
            links = {f.name: self.page_of(f.relative_to(self.root).as_posix(), "") for f in inside}
            here = posixpath.dirname(uri)
            listed = [f"- [{name}]({posixpath.relpath(target, here)})" for name, target in links.items()]
            self.pages[uri] = "\n".join([f"# `{path}`", "", *listed, ""])
        elif file.suffix in _DATA:
            self.copied[uri] = file
        else:
            text = file.read_text(encoding="utf-8")
            self.pages[uri] = f"# `{path}`\n\n~~~~{_CODE[file.suffix]}\n{text.rstrip()}\n~~~~\n"


def uri_of(path: str) -> str:
    """Return where a file of the repository is in the site.

    Examples
    --------
    >>> uri_of("docs/torch.md"), uri_of("CHANGELOG.md"), uri_of("examples/train_digits.py")
    ('torch.md', 'changelog.md', 'source/examples/train_digits.py.md')
    """
    listed = any(path in files for _, files in OUTLINE)
    if path in ("README.md", "docs/README.md"):
        return HOME
    if path == "bnspec/SPEC.md":
        return specification.INDEX
    if path == "docs/findings":
        return "findings/index.md"
    if path.startswith("docs/") and PurePosixPath(path).suffix in (".md", *_DATA):
        return path.removeprefix("docs/")
    if listed and path.endswith(".md"):
        return path.lower().removesuffix("/readme.md").removesuffix(".md") + ".md"
    if PurePosixPath(path).suffix in _DATA:
        return f"source/{path}"
    return f"source/{path}.md"


def site(root: Path = ROOT) -> Site:
    """Lay out the site of a source tree."""
    made = Site(root)
    made.navigation.append({"Home": made.add("docs/README.md")})
    for title, files in OUTLINE:
        entries: list[Any] = []
        for path in files:
            if path == "bnspec/SPEC.md":
                entries += _specification(made)
            elif path == "reference":
                entries += _reference(made)
            elif path == "docs/findings":
                entries.append({"Findings": _findings(made)})
            else:
                entries.append(made.add(path))
        made.navigation.append({title: entries[0] if len(entries) == 1 else entries})
    return made


def _specification(made: Site) -> list[Any]:
    text = (made.root / "bnspec" / "SPEC.md").read_text(encoding="utf-8")
    pages = specification.specification_pages(text)
    _, parts, of_parts = specification.contents(text)
    made.pages |= {uri: python_markdown(page) for uri, page in pages.items()}
    made.clauses |= specification.clause_anchors(text)
    entries: list[Any] = [specification.INDEX, *(p.uri for p in of_parts if not p.part)]
    return entries + [{part: [p.uri for p in of_parts if p.part == part]} for part, _ in parts]


def _reference(made: Site) -> list[Any]:
    pages = reference.reference_pages(made.root)
    made.pages[reference.INDEX] = reference.index(pages)
    for page in pages:
        made.pages[page.uri] = page.text
        made.modules[page.uri] = (*page.modules, "bnspec")
        made.names |= {name: f"{page.uri}#{name}" for name in page.names}
        if page.module != "bnspec":  # whose names are on several pages
            made.names[page.module] = page.uri
    made.pages[commands.PAGE] = commands.command_page()
    return [reference.INDEX, *(page.uri for page in pages), commands.PAGE]


def _findings(made: Site) -> list[str]:
    """Take every finding, and make the page that lists them."""
    files = sorted((made.root / "docs" / "findings").glob("*.md"))
    uris = [made.add(file.relative_to(made.root).as_posix()) for file in files]
    lines = ["# Findings", "", "What frameworks' own layers get wrong, each with a program that shows it.", ""]
    for file, uri in zip(files, uris):
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({uri.removeprefix('findings/')})")
    made.pages["findings/index.md"] = "\n".join([*lines, ""])
    return ["findings/index.md", *uris]
