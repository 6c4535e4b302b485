"""Every page, clause and report shows all the characters that were written: no formula loses a ``*`` to a renderer."""

import datetime
import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_text import ROUGH, meant, outside_code, shown

from bnspec._clauses import clauses, specification
from bnspec._cli import main
from bnspec._printable import printable
from bnspec_conformance.cli import main as conformance
from bnspec_conformance.matrix.markdown import page
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.mutants.summary import markdown
from bnspec_conformance.report import write_html
from bnspec_conformance.report.pages.markdown import code, escaped, plain, rendered

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
)
#: Text as subjects, files and mathematics have it.
HOSTILE = [
    "dx = gamma*r*istd*(g - (sum g)/n - xhat*(sum g*xhat)/n)",
    "x*scale + (shift - mean*scale) and **2",
    "_mean, _variance, running_mean_ and __init__",
    "|mean| > std, max|y| | n",
    "E[x^2] - E[x]^2 [a](b) [c]: d ![e](f)",
    "a < b <b>bold</b> <!-- gone --> &amp; &lt; < c",
    r"\alpha \* \\ back\slash",
    "~~struck~~ and ~1.5~",
    "# no heading",
    "> no quotation",
    "- no item",
    "+ no item",
    "1. no item",
    "12) no item",
    "`code` and ``more` of it",
    "\x1b[31mred\x07 \x00 \u202edetrevni \udc80",
    "two\nlines\n# of text",
]


@pytest.mark.parametrize("preset", ["commonmark", "js-default"])
@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_shows_what_was_written(path: Path, preset: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert shown(text, preset) == meant(text)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_formulas_of_a_page_are_code(path: Path) -> None:
    text = outside_code(path.read_text(encoding="utf-8"))
    assert [text[max(0, m.start() - 20) : m.end() + 20] for m in ROUGH.finditer(text)] == []


def test_the_pages_are_there() -> None:
    names = {p.relative_to(ROOT).as_posix() for p in PAGES}
    assert {"README.md", "CHANGELOG.md", "bnspec/SPEC.md", "docs/matrix.md", "docs/mutants.md"} <= names
    assert len(PAGES) > 50


@pytest.mark.parametrize("preset", ["commonmark", "js-default"])
def test_every_clause_shows_what_was_written(preset: str) -> None:
    texts = {name: clause.text for name, clause in clauses().items()}
    assert [name for name, text in texts.items() if shown(text, preset) != meant(text)] == []
    assert [name for name, text in texts.items() if "".join(plain(text).split()) != meant(text)] == []
    assert [name for name, text in texts.items() if shown(text) != _text_of(rendered(text))] == []


def test_every_clause_reads_the_same_in_another_renderer() -> None:
    other = pytest.importorskip("markdown", reason="a second renderer is not installed")
    extensions = ["tables", "fenced_code", "sane_lists"]
    text = specification()
    assert _text_of(other.markdown(text, extensions=extensions)) == meant(text)
    wrong = [
        n for n, c in clauses().items() if _text_of(other.markdown(c.text, extensions=extensions)) != meant(c.text)
    ]
    assert wrong == []


@pytest.mark.parametrize("formula", ["a*b*c", "x * y * z", "max|q|", "1 - decay^t", "_mean", r"\sum", "a <b> c"])
def test_a_formula_in_running_text_is_found(formula: str) -> None:
    assert ROUGH.search(outside_code(f"The value is {formula} here."))
    assert not ROUGH.search(outside_code(f"The *value* is `{formula}` **here**, [so](there.md)."))
    assert meant(f"- **BN-X-1** The *value* is `{formula}`.") == shown(f"- **BN-X-1** The *value* is `{formula}`.")


def test_lost_characters_are_noticed() -> None:
    for text in ("dx = gamma*r*istd", "of _mean_", "| a |\n| --- |\n| max|q| |", "a <b> c", "~~x~~", "n\n> 1"):
        assert shown(text, "js-default") != "".join(text.split())
        assert ROUGH.search(outside_code(text)) or shown(text) != meant(text)
    assert shown("dx = gamma*r*istd") != meant("dx = gamma*r*istd") == "dx=gamma*r*istd"


def test_the_commands_print_formulas_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for run in (main, conformance):
        assert run(["spec" if run is main else "explain", "BN-GRAD-1"]) == 0
        assert "dx = gamma*r*istd*(g - (sum g)/n - xhat*(sum g*xhat)/n)" in capsys.readouterr().out


# --- text that is put into pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    wanted = "".join(printable(text).split())
    for preset in ("commonmark", "js-default"):
        assert shown(escaped(text), preset) == wanted
        assert shown(f"| a | b |\n| --- | --- |\n| {escaped(text)} | c |\n", preset) == f"ab{wanted}c"
        assert shown(f"- x: {escaped(text)} [more](there.md)", preset) == f"x:{wanted}more"
        assert shown(f"| a | b |\n| --- | --- |\n| {code(text)} | c |\n", preset) == f"ab{wanted}c"


def test_generated_pages_show_what_they_are_given() -> None:
    assert shown(markdown()) == meant(markdown())
    text = page(_rows(), _report(), "bnspec-conformance matrix")
    for hostile in HOSTILE:
        assert "".join(printable(hostile).split()) in shown(text, "js-default")


def _rows() -> list[MatrixRow]:
    findings = [
        {"group": "g", "convention": text, "measured": text, "declared": text, "verdict": "differs", "note": ""}
        for text in HOSTILE
    ]
    return [
        MatrixRow("hostile", report=_report(), findings=findings),
        *(MatrixRow("absent", report=None, findings=[], reason=text) for text in HOSTILE),
    ]


@functools.cache
def _report() -> dict[str, Any]:
    entry = {"verdict": "not supported", "reasons": list(HOSTILE), "worst": None, "seconds": 0.0}
    counted = dict.fromkeys(("passed", "failed", "stale", "waived", "untested"), 0) | {"not supported": 1}
    checks = [
        {
            "check": f"test_it[{i}]", "subject": "hostile", "clauses": ["BN-MOM-1"], "outcome": outcome, "reason": text,
            "violation": {"problem": text, "case": text, "script": text} if outcome == "failed" else None,
            "waiver": {"reason": text, "link": text, "applied": [{"reason": text}]} if outcome == "waived" else None,
            "seconds": 0.0,
        }
        for i, (text, outcome) in enumerate((t, o) for t in HOSTILE for o in ("failed", "waived", "untested"))
    ]  # fmt: skip
    subject = {"name": "hostile", "version": HOSTILE[0], "dialect": HOSTILE[1], "profiles": ["core"], "dtypes": [],
               "bound": "strict", "arithmetic": "float64", "asked": "hostile"}  # fmt: skip
    return {
        "python": "3", "platform": "Linux-_x_", "machine": HOSTILE[1], "device": HOSTILE[2], "seed": 0,
        "max_examples": None, "bnspec": "0", "date": datetime.datetime.now(datetime.UTC).isoformat(), "seconds": 1.0,
        "command": HOSTILE[5], "notes": list(HOSTILE), "versions": {HOSTILE[5]: HOSTILE[6]}, "subjects": [subject],
        "clauses": {name: {"verdict": "not supported", "subjects": {"hostile": entry | counted}} for name in clauses()},
        "checks": checks,
    }  # fmt: skip


def test_the_report_shows_every_formula_and_every_name(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_html(path, _report())
    html = path.read_text(encoding="utf-8")
    text = _text_of(html)
    for name, clause in clauses().items():
        assert text.count(meant(clause.text)) >= 2, name  # in the row's one line, and in full
    for hostile in HOSTILE:
        assert "".join(printable(hostile).split()) in text
    assert "<b>bold</b>" not in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff]", html)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.silent = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.silent = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.silent = False

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.found.append(data)


def _text_of(html: str) -> str:
    reader = _Text()
    reader.feed(html)
    reader.close()
    return "".join("".join(reader.found).split())


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "RELEASING.md"])
def test_every_path_that_a_guide_names_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("`suite/", "`conformance/bnspec_conformance/")
    named = re.findall(r"`((?:bnspec|backends|conformance|tests|docs|examples|benchmarks|\.ci)/[^`\s]*)`", text)
    assert len(named) > 3 * (name == "CONTRIBUTING.md")
    missing = [path for path in named if "<" not in path and not (ROOT / path).exists()]
    folders = [path.split("<")[0].rpartition("/")[0] for path in named if "<" in path]
    assert missing + [folder for folder in folders if not (ROOT / folder).is_dir()] == []
