"""The documentation site builds without a warning; its links lead somewhere, and it asks no other host for anything."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bnspec_site.layout import OUTLINE, ROOT, uri_of
from bnspec_site.reference import public_names
from bnspec_site.specification import clause_anchors
from installed_here import installed
from markdown_it import MarkdownIt
from markdown_text import meant

from bnspec._clauses import clauses, specification

pytestmark = pytest.mark.skipif(
    not (installed("mkdocs") and installed("material") and installed("mkdocstrings")), reason="needs the extra docs"
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
CLAUSE = re.compile(r"(?<![\w-])BN-[A-Z]+-[1-9][0-9]*(?![\w-])")


class Page(HTMLParser):
    """What a test asks of a page: anchors, links, resources, and the text of its article."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.text: list[str] = []
        self.unlinked: list[str] = []
        self.elements: Counter[str] = Counter()
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag == "link" and known.get("rel") not in ("next", "prev", "canonical"):
            self.resources.append(known.get("href", ""))
        self.resources += [known[name] for name in ("src", "srcset", "data", "poster") if name in known]
        self.resources += re.findall(r"url\(([^)]*)\)", known.get("style", ""))
        if self._within("article"):
            self.elements[tag] += 1
        if tag not in VOID:
            self._open.append((tag, known))

    def handle_endtag(self, tag: str) -> None:
        while self._open and tag not in VOID and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "style":
            self.resources += re.findall(r"(?<=url\()[^)]*|(?<=@import )[^;]+", data)
        if not self._within("article") or self._within("script") or self._within("style"):
            return
        if any(known.get("class") in ("headerlink", "filename") for _, known in self._open):
            return
        self.text.append(data)
        if not self._within("a"):
            self.unlinked += CLAUSE.findall(data)

    def _within(self, tag: str) -> bool:
        return any(name == tag for name, _ in self._open)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(built)]
    done = subprocess.run(
        [*command, "--config-file", "docs/site/mkdocs.yml"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Page]:
    return {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}


def elsewhere(page: Page) -> list[str]:
    """Resources of a page that are on another host."""
    return [resource for resource in page.resources if re.match(r"\s*['\"]?(https?:)?//", resource)]


def html(uri: str) -> str:
    return re.sub(r"(^|/)README\.md$", r"\1index.md", uri).removesuffix(".md") + ".html"


def test_every_clause_has_its_anchor(pages: dict[str, Page]) -> None:
    addresses = clause_anchors(specification())
    for name in clauses():
        uri, _, anchor = addresses[name].partition("#")
        assert anchor in pages[html(uri)].anchors, name


def test_every_mention_of_a_clause_is_a_link(pages: dict[str, Page]) -> None:
    mentions = {name: [c for c in page.unlinked if c in clauses()] for name, page in pages.items()}
    assert {name: found for name, found in mentions.items() if found} == {}
    to = [link for page in pages.values() for link in page.links if re.search(r"#bn-[a-z]+-\d+$", link)]
    assert len(to) > 1000


def test_every_public_name_has_its_anchor(pages: dict[str, Page]) -> None:
    anchors = {a for name, page in pages.items() if name.startswith("reference/") for a in page.anchors}
    assert [name for name in public_names(ROOT) if name not in anchors] == []


def test_links_lead_to_pages_and_anchors_that_are_there(folder: Path, pages: dict[str, Page]) -> None:
    lost = []
    for name, page in pages.items():
        if name == "404.html":  # its links are those of a server's root
            continue
        for link in page.links + page.resources:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path))) if parts.path else name
            there = (folder / target).is_file()
            anchored = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors
            if not (there and anchored) and parts.fragment != "__skip":
                lost.append((name, link))
    assert lost == []


def test_no_page_asks_another_host(folder: Path, pages: dict[str, Page]) -> None:
    asked = [resource for page in pages.values() for resource in elsewhere(page)]
    for path in folder.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        asked += re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)|@import\s*['\"]?(?:https?:)?//[^;]*", text)
    assert asked == []


@pytest.mark.parametrize(
    "element",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img src="http://example.org/a.png">',
        '<p style="background: url(https://example.org/a.png)">a</p>',
        "<style>@font-face { src: url(https://example.org/a.woff) }</style>",
        '<style>@import "https://example.org/a.css";</style>',
    ],
)
def test_a_page_that_asks_another_host_is_noticed(element: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<article><a href='https://example.org/'>a link is no request</a>{element}</article>")
    assert len(elsewhere(Page(path))) == 1


def test_scripts_ask_another_host_only_for_what_no_page_has(folder: Path) -> None:
    """The theme's script knows where to get diagrams and facts about a repository, which no page wants.

    A browser of before 2020 would also load what such browsers lack.
    """
    known = (
        "https://unpkg.com/mermaid@",
        "https://unpkg.com/resize-observer-polyfill",
        "https://api.github.com/",
        "https://${e}/api/v4/projects/",
    )
    fetched: set[str] = set()
    for path in folder.rglob("*.js"):
        if path.name != "search_index.js":
            text = re.sub(r"/\*!?.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            fetched |= set(re.findall(r"[\"'`](https?://[^\"'`\s]+)", text))
    fetched = {a for a in fetched if not a.startswith(("http://www.w3.org/", *known))}
    assert fetched == set()
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text
        assert 'data-md-component="source"' not in text


def sources() -> Iterator[str]:
    for _, files in OUTLINE:
        yield from (file for file in files if file.endswith(".md") and file != "bnspec/SPEC.md")
    yield from (p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "docs" / "findings").glob("*.md")))


@pytest.mark.parametrize("source", list(sources()))
def test_a_page_shows_what_was_written_with_the_same_lists_and_tables(source: str, pages: dict[str, Page]) -> None:
    text = (ROOT / source).read_text(encoding="utf-8")
    page = pages[html(uri_of(source))]
    assert "".join("".join(page.text).split()) == meant(text)
    wanted = Counter(token.tag for token in MarkdownIt("commonmark").enable("table").parse(text) if token.nesting != -1)
    for tag in ("ul", "ol", "li", "table", "tr", "h1", "h2", "h3"):
        assert page.elements[tag] == wanted[tag], tag


def test_the_specification_has_its_lists_and_tables(pages: dict[str, Page]) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(specification())
    wanted = Counter(token.tag for token in tokens if token.nesting != -1)
    found: Counter[str] = Counter()
    for name, page in pages.items():
        if name.startswith("spec/") and name != "spec/index.html":
            found += page.elements
    for tag in ("li", "table", "tr"):
        assert found[tag] == wanted[tag], tag


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")
def test_the_search_finds_a_word_without_a_server(folder: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    address = f"{(folder / 'torch.html').as_uri()}?q=renormalization"
    done = subprocess.run(
        [*command, "--virtual-time-budget=30000", address], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.count('class="md-search-result__item"') > 3


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize(
    "name", ["index", "spec/running", "reference/functions", "matrix", "performance", "torch", "gallery"]
)
def test_no_page_is_wider_than_a_telephone(name: str, folder: Path, tmp_path: Path) -> None:
    """Wide tables and code scroll within themselves."""
    assert BROWSER is not None
    frame = tmp_path / "frame.html"
    address = (folder / f"{name}.html").as_uri()
    frame.write_text(
        f'<iframe src="{address}" style="width:400px;height:900px"></iframe><output></output><script>'
        "onload = () => { const inside = document.querySelector('iframe').contentDocument.documentElement;"
        "document.querySelector('output').textContent = `${inside.scrollWidth} of ${inside.clientWidth}` }</script>",
        encoding="utf-8",
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    done = subprocess.run(
        [*command, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'user'}", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    found = re.search(r"<output>(\d+) of (\d+)</output>", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert int(found[1]) <= int(found[2]) == 400
