"""The documentation site has every page, clause and public name; what is linked in a page, and what is not."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from bnspec_site.indents import python_markdown
from bnspec_site.layout import OUTLINE, ROOT, Site, site, uri_of
from bnspec_site.mentions import Anchors, linked
from bnspec_site.reference import exported, public_names, reference_pages
from bnspec_site.repository_links import relinked
from bnspec_site.specification import clause_anchors, contents

import bnspec
import bnspec_conformance
from bnspec._clauses import clauses, specification

ANCHORS = Anchors(
    {"BN-RUN-3": "spec/running.md#bn-run-3", "BN-RUN": "spec/running.md"}, {"bnspec.fold": "r.md#bnspec.fold"}
)


@pytest.fixture(scope="module")
def made() -> Site:
    return site()


# --- pages ------------------------------------------------------------------------------------------------------------


def test_every_page_of_the_documentation_has_a_place(made: Site) -> None:
    placed = {path for _, files in OUTLINE for path in files}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")} - {"docs/README.md"}
    assert there - placed == set()
    for finding in (ROOT / "docs" / "findings").glob("*.md"):
        assert f"findings/{finding.name}" in made.pages
    assert {"index.md", "changelog.md", "examples/port-c.md", "findings/index.md", "reference/index.md"} <= set(
        made.pages
    )


def test_the_navigation_names_each_page_once(made: Site) -> None:
    def uris(entry: object) -> list[str]:
        if isinstance(entry, dict):
            return [uri for inner in entry.values() for uri in uris(inner)]
        return [uri for inner in entry for uri in uris(inner)] if isinstance(entry, list) else [str(entry)]

    named = uris(made.navigation)
    assert sorted(named) == sorted(uri for uri in made.pages if not uri.startswith("source/"))


def test_a_link_out_of_the_pages_brings_its_file(made: Site) -> None:
    assert "source/examples/port-c/port.c.md" in made.pages
    assert made.copied["performance.svg"] == ROOT / "docs" / "performance.svg"
    with pytest.raises(FileNotFoundError, match=r"docs/nowhere\.md"):
        made.page_of("docs/nowhere.md", "")


@pytest.mark.parametrize(
    ("link", "wanted"),
    [
        ("[a](../bnspec/SPEC.md)", "[a](spec/index.md)"),
        ("[a](../bnspec/SPEC.md#running-statistics)", "[a](spec/running.md)"),
        ("[a](jax.md#a-model)", "[a](jax.md#a-model)"),
        ("[a](../README.md)", "[a](index.md)"),
        ("`[a](../bnspec/SPEC.md)`", "`[a](../bnspec/SPEC.md)`"),
        ("```text\n[a](../bnspec/SPEC.md)\n```", "```text\n[a](../bnspec/SPEC.md)\n```"),
        ("[a](https://example.org/x)", "[a](https://example.org/x)"),
        ("[a](#here)", "[a](#here)"),
    ],
)
def test_links_between_files_become_links_between_pages(made: Site, link: str, wanted: str) -> None:
    assert relinked(link, "docs/torch.md", "torch.md", made.page_of) == wanted


def test_a_link_from_a_folder_goes_up(made: Site) -> None:
    path = "examples/port-c/README.md"
    assert relinked("[a](../../docs/protocol.md)", path, uri_of(path), made.page_of) == "[a](../protocol.md)"


# --- clauses ----------------------------------------------------------------------------------------------------------


def test_every_clause_is_on_one_page_with_an_anchor(made: Site) -> None:
    addresses = clause_anchors(specification())
    assert [name for name in addresses if name in clauses()] == list(clauses())
    assert addresses["BN-RUN-3"] == "spec/running.md#bn-run-3"
    assert addresses["BN-RUN"] == "spec/running.md"
    for name in clauses():
        uri, _, anchor = addresses[name].partition("#")
        assert made.pages[uri].count(f'<a id="{anchor}"></a>**{name}**') == 1
        assert sum(f'<a id="{anchor}">' in text for text in made.pages.values()) == 1


def test_the_pages_together_are_the_text() -> None:
    introduction, parts, pages = contents(specification())
    whole = introduction + "".join(f"# {title}\n{body}" for title, body in parts) + "".join(p.text for p in pages)
    assert sorted(re.findall(r"\w+", whole)) == sorted(re.findall(r"\w+", specification()))
    assert len({page.uri for page in pages}) == len(pages) > 20


# --- public names -----------------------------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference() -> None:
    names = set(public_names(ROOT))
    assert {f"bnspec.{name}" for name in bnspec.__all__} <= names
    assert {f"bnspec_conformance.{name}" for name in bnspec_conformance.__all__} <= names
    for door in ("torch", "linen", "nnx", "equinox"):
        assert {f"bnspec.{door}.{name}" for name in exported(ROOT / "bnspec" / f"{door}.py")} <= names
        assert f"bnspec.{door}.BatchNorm" in names
    public = [module.name for module in pkgutil.iter_modules(bnspec.__path__) if not module.name.startswith("_")]
    assert sorted(public) == ["equinox", "linen", "nnx", "torch"]
    for package in ("cpu", "cuda", "ranks"):
        module = importlib.import_module(f"bnspec_backends.{package}")
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= names
    assert {"bnspec_backends.ranks.threads.run", "bnspec_backends.arrays.numpy.NumpyBackend"} <= names
    assert len(names) == len(public_names(ROOT))


def test_a_new_public_name_without_a_section_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "bnspec").mkdir()
    (tmp_path / "bnspec" / "__init__.py").write_text(f"__all__ = {[*bnspec.__all__, 'new_name']}\n")
    with pytest.raises(ValueError, match="new_name"):
        reference_pages(tmp_path)


def test_the_help_of_every_command_is_in_the_reference(made: Site) -> None:
    page = made.pages["reference/commands.md"]
    for name in ("bnspec convert", "bnspec spec", "bnspec-conformance run", "bnspec-conformance vectors verify"):
        assert f"### `{name}`\n\n```text\nusage: {name} " in page
    assert page.count("usage: ") == len(re.findall("^##+ ", page, re.MULTILINE)) > 15


# --- mentions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "wanted"),
    [
        ("<p>BN-RUN-3</p>", '<p><a class="clause" href="spec/running.md#bn-run-3">BN-RUN-3</a></p>'),
        ("<p>[BN-RUN]</p>", '<p>[<a class="clause" href="spec/running.md">BN-RUN</a>]</p>'),
        ("<pre><code>BN-RUN-3</code></pre>",
         '<pre><code><a class="clause" href="spec/running.md#bn-run-3">BN-RUN-3</a></code></pre>'),
        ("<code>bnspec.fold</code>", '<code><a class="name" href="r.md#bnspec.fold">bnspec.fold</a></code>'),
        ("<code>bnspec.fold(p)</code>", '<code><a class="name" href="r.md#bnspec.fold">bnspec.fold(p)</a></code>'),
        ("<table><tr></tr></table>", '<div class="wide"><table><tr></tr></table></div>'),
        *((same, same) for same in (
            '<a href="x">BN-RUN-3 <code>bnspec.fold</code></a>', "<p>BN-RUN-30 XBN-RUN-3</p>", "<code>fold</code>",
            '<p title="BN-RUN-3">a</p>', "<pre><code>bnspec.fold</code></pre>", "<!-- BN-RUN-3 -->", "<p>BN-NONE-1</p>",
        )),
    ],
)  # fmt: skip
def test_what_is_linked(html: str, wanted: str) -> None:
    assert linked(html, ANCHORS, lambda uri: uri) == wanted


def test_a_page_does_not_link_to_itself() -> None:
    assert linked("<h1>BN-RUN</h1>", ANCHORS, lambda uri: "") == "<h1>BN-RUN</h1>"
    assert 'href="#bn-run-3"' in linked("<p>BN-RUN-3</p>", ANCHORS, lambda uri: "")


def test_modules_have_an_address(made: Site) -> None:
    assert made.names["bnspec.torch"] == "reference/bnspec.torch.md"
    assert made.names["bnspec.torch.replace"] == "reference/bnspec.torch.md#bnspec.torch.replace"
    assert "bnspec" not in made.names


def test_names_of_the_page_itself_need_no_module() -> None:
    assert 'href="r.md#bnspec.fold"' in linked(
        "<code>fold</code>", ANCHORS._replace(modules=["bnspec"]), lambda uri: uri
    )


# --- Markdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\n- b\n  c\n\n  d\n", "a\n\n- b\n    c\n\n    d\n"),
        ("1. a\n   - b\n     c\n2. d\n", "1. a\n    - b\n        c\n2. d\n"),
        ("- a\n\n  ```text\n    x\n  ```\n", "- a\n\n    ```text\n      x\n    ```\n"),
        ("```python save.py\nx\n```\n", '```python title="save.py"\nx\n```\n'),
        ("```python\n>>> x\n```\n", "```pycon\n>>> x\n```\n"),
        ("```text\n- a\n  b\n```\n", "```text\n- a\n  b\n```\n"),
        ("a\n\n    code\n", "a\n\n    code\n"),
        ("- a\nlazy\n", "- a\n    lazy\n"),
    ],
)
def test_markdown_is_indented_for_the_other_renderer(text: str, wanted: str) -> None:
    assert python_markdown(text) == wanted


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("griffe", reason="griffe is not installed")
    from bnspec_site.docstrings import markdown

    assert markdown("Sum it.\n\nBy::\n\n    a + b") == "Sum it.\n\nBy:\n\n    a + b"
    assert markdown("Sum it.\n\n::\n\n    a + b") == "Sum it.\n\n\n\n    a + b"
    assert markdown("x : array, shape (N, C)\n    Input.") == "x : array,\u00a0shape\u00a0(N,\u00a0C)\n    Input."
    assert markdown('a : {"x", "y"}, optional\n    Input.') == 'a : "x"\u00a0| "y", optional\n    Input.'
    assert markdown("a : int\n    Input.") == "a : int\n    Input."
    assert markdown("a, b\n    Input.") == "a\n    Input.\nb\n    Input."
    assert markdown("TypeError, ValueError\n    Bad.") == "TypeError,\u00a0ValueError\n    Bad."
