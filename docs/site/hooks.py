"""Hooks of mkdocs: put the repository's pages into the site, and link what they mention."""

from typing import Any

from bnspec_site.layout import Site, site
from bnspec_site.mentions import Anchors, linked
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

_built: list[Site] = []


def on_files(files: Files, *, config: Any) -> Files:
    """Add every page that is not in `docs_dir`, and the navigation."""
    _built[:] = [site()]
    for uri, text in _built[0].pages.items():
        files.append(File.generated(config, uri, content=text))
    for uri, path in _built[0].copied.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    config.nav = _built[0].navigation
    return files


def on_page_content(html: str, *, page: Page, config: Any, files: Files) -> str:
    """Link clauses and public names wherever a page mentions them, and let wide tables scroll within themselves."""

    def address(uri: str) -> str:
        found = files.get_file_from_path(uri)
        assert found is not None, uri
        return "" if found.url == page.url else get_relative_url(found.url, page.url)

    anchors = Anchors(_built[0].clauses, _built[0].names, _built[0].modules.get(page.file.src_uri, ()))
    return linked(html, anchors, address)
