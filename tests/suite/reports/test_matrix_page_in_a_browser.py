"""The page of the matrix in a browser, wide and narrow: nothing is cut off or fetched, filters work, a cell opens."""

import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest
from matrix_rows import finding, record, row

from bnspec_conformance.matrix.page.page import write_matrix_page
from bnspec_conformance.matrix.row import MatrixRow

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

NAMES = ["keras", "a_module_with_a_long_name:and_an_attribute", "exec:./port --fast, \U0001f600", *"cdefghijkl"]

#: A view that a link carries: one dialect, two further subjects, what fails, and an open cell.
FRAGMENT = "#only=fails&dialects=torch&subjects=keras,exec%3A.%2Fport%20--fast%2C%20%F0%9F%98%80&BN-RUN-9/keras"

#: Heard before anything else of the page runs.
LISTEN = """<script>window.said = [];
addEventListener("error", (event) => said.push("error: " + event.message));
addEventListener("unhandledrejection", (event) => said.push("rejected: " + event.reason));
addEventListener("securitypolicyviolation", (event) => said.push("fetched: " + event.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...words) => said.push(kind + ": " + words.join(" "));
</script></head>"""

ACT = """<script>addEventListener("load", () => setTimeout(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const lines = () => all("tr.line").filter((e) => e.offsetParent).map((e) => e.dataset.clause);
  const heads = () => all("thead .name").filter((e) => e.offsetParent).map((e) => e.textContent);
  const result = { restored: [lines(), heads(), one("#panel-title").textContent, one(".panel").hidden] };
  result.reason = one(".panel-body").innerText;
  const field = one(".filters").elements;
  const enter = (target) => target.dispatchEvent(new Event("input", { bubbles: true }));
  const set = (name, value) => { field[name].value = value; enter(field[name]); };
  one(".close").click();
  result.closed = [one(".panel").hidden, location.hash];
  one(".filters button[type=reset]").click();
  setTimeout(() => {
    result.reset = [lines(), heads().length, location.hash];
    set("level", "AA"); result.level = lines(); set("level", "");
    set("family", "BN-SYNC"); result.family = lines(); set("family", "");
    set("text", "NO SYNC"); result.text = [lines(), location.hash]; set("text", "");
    set("only", "differs"); result.differs = lines();
    const box = all("[name=dialect]").find((e) => e.value === "torch");
    box.checked = false; enter(box);
    result.dialect = [heads().includes("c"), lines(), location.hash];
    set("only", "");
    one('.grid a[href="#BN-SYNC-1/keras"]').click();
    result.opened = [one("#panel-title").textContent, one(".panel-body").innerText, location.hash.split("&").at(-1)];
    result.focus = document.activeElement.id;
    dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
    result.escaped = [one(".panel").hidden, document.activeElement.getAttribute("href")];
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp", bubbles: true }));
    result.arrow = document.activeElement.getAttribute("href");
    all("details").forEach((e) => { e.open = true; });
    one('.grid a[href="#BN-RUN-9/keras"]').click();
    const beyond = ({ left, right }) => left < -1 || right > document.documentElement.clientWidth + 1;
    const cut = (e) => e.offsetParent && !e.closest("pre, svg, .sr, .word, .grid > table, .scroll > *")
      && beyond(e.getBoundingClientRect());
    const scrolls = (e) => e.scrollWidth > e.clientWidth + 1 && !e.closest("pre, svg, .sr, .word, .grid")
      && ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
    const named = (found) => [...new Set(found.map((e) => e.tagName + "." + e.className))];
    result.cut = named(all("body *").filter(cut));
    result.scrolls = named(all("body *").filter(scrolls));
    const { clientWidth, scrollWidth } = document.documentElement;
    result.width = [innerWidth, scrollWidth - clientWidth, document.body.scrollWidth - clientWidth];
    result.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
    result.said = said;
    parent.postMessage(JSON.stringify(result), "*");
  });
}, 100));</script></body>"""

FRAME = """<pre></pre>
<script>onmessage = (event) => { document.querySelector("pre").textContent = event.data; };</script>
<iframe src="inner.htmlFRAGMENT" width="WIDTH" height="900" style="border:0"></iframe>"""


def rows(many: int) -> list[MatrixRow]:
    found = []
    for number, name in enumerate(NAMES[:many]):
        records = [
            record(name, "BN-RUN-1", "passed"),
            record(name, "BN-RUN-9", "waived" if number % 2 == 0 else "passed"),
            record(name, "BN-NORM-1", "failed" if name == "c" else "passed"),
            record(name, "BN-SYNC-1", "not supported", reason="it has no sync " * 9),
        ]
        found.append(
            row(name, *records, findings=[finding("correction", "0", "differs", declared="1", note="n" * 200)])
        )
        found[-1].report["subjects"][0]["dialect"] = "torch" if name in "cd" else None
        found[-1].report["notes"] = ["stale: " + "x" * 200]
    return [*found, MatrixRow("gone", reason="it is not installed " + "x" * 200)]


@pytest.fixture(scope="module", params=[(1280, 13), (400, 13), (1280, 6), (400, 6)])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    """What the page of some subjects said and did in a window of a width; up to six have columns with words."""
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    folder, (width, many) = tmp_path_factory.mktemp("page"), request.param
    write_matrix_page(folder / "inner.html", rows(many), "bnspec-conformance matrix")
    text = (folder / "inner.html").read_text()
    assert text.count("</head>") == text.count("</body>") == 1
    (folder / "inner.html").write_text(text.replace("</head>", LISTEN).replace("</body>", ACT))
    (folder / "outer.html").write_text(FRAME.replace("FRAGMENT", html.escape(FRAGMENT)).replace("WIDTH", str(width)))
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    more = [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=6000", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *more, (folder / "outer.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    (found,) = re.findall(r"<pre>(\{.*?\})</pre>", done.stdout)
    return width, json.loads(html.unescape(found)) | {"subjects": many}


def test_nothing_is_cut_off_and_only_the_table_scrolls(seen: tuple[int, dict[str, Any]]) -> None:
    width, result = seen
    assert result["cut"] == []
    assert result["width"] == [width, 0, 0]
    if width == 400:
        assert result["scrolls"] == []


def test_nothing_is_fetched_and_nothing_complains(seen: tuple[int, dict[str, Any]]) -> None:
    assert seen[1]["fetched"] == []
    assert seen[1]["said"] == []


def test_the_fragment_restores_a_view(seen: tuple[int, dict[str, Any]]) -> None:
    result = seen[1]
    assert result["restored"] == [["BN-NORM-1", "BN-RUN-9"], ["keras", NAMES[2], "c", "d"], "BN-RUN-9 keras", False]
    assert "it is known finding: findings/a.md" in result["reason"]
    assert "8192 ulp, bound 8 ulp" in result["reason"]
    closed, address = result["closed"]
    assert closed
    assert address == FRAGMENT.rpartition("&")[0]


def test_filters_leave_what_they_name(seen: tuple[int, dict[str, Any]]) -> None:
    result = seen[1]
    every = ["BN-NORM-1", "BN-RUN-1", "BN-RUN-9", "BN-SYNC-1"]
    assert result["reset"] == [every, result["subjects"], ""]
    assert result["level"] == ["BN-RUN-9"]
    assert result["family"] == ["BN-SYNC-1"]
    assert result["text"] == [["BN-SYNC-1"], "#text=NO%20SYNC"]
    assert result["differs"] == ["BN-NORM-1", "BN-RUN-9"]
    assert result["dialect"] == [False, ["BN-RUN-9"], "#only=differs&dialects=none"]


def test_a_cell_opens_and_the_keyboard_gets_back_to_it(seen: tuple[int, dict[str, Any]]) -> None:
    result = seen[1]
    title, text, address = result["opened"]
    assert (title, address) == ("BN-SYNC-1 keras", "BN-SYNC-1/keras")
    assert "it has no sync" in text
    assert result["focus"] == "panel-title"
    assert result["escaped"] == [True, "#BN-SYNC-1/keras"]
    assert result["arrow"] == "#BN-RUN-9/keras"
