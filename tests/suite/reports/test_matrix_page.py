"""The page of the matrix: what its cells and reasons say, that it needs nothing else, and the way from and to JSON."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matrix_rows import NUMBERS, finding, record, row
from suite_command import command

from bnspec._clauses import clauses as specification
from bnspec_conformance.cli import main
from bnspec_conformance.matrix.markdown import page as markdown_page
from bnspec_conformance.matrix.merge import merged, rows_of
from bnspec_conformance.matrix.page.cell import cell
from bnspec_conformance.matrix.page.column import columns
from bnspec_conformance.matrix.page.convention import conventions
from bnspec_conformance.matrix.page.link import base_problem, finding_link
from bnspec_conformance.matrix.page.page import matrix_page
from bnspec_conformance.matrix.page.reason import reasons
from bnspec_conformance.matrix.read import read_rows
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report import BadReport, read_report, write_json
from bnspec_conformance.report.pages.markdown import plain
from bnspec_conformance.trials.record import Record, Worst

WORST = Worst(0.5, 4.0, 8.0, "y", "float32(2,3) axis=1")
EVIL = '../<script>alert("1")</script>\x1b[2J\U0001f600 &amp;'


ROWS = [
    row("a", record("a", "BN-RUN-1", "passed", worst=WORST), record("a", "BN-RUN-9", "waived")),
    row(
        "b",
        record("b", "BN-RUN-1", "failed"),
        record("b", "BN-RUN-9", "waived"),
        record("b", "BN-SYNC-1", "not supported"),
    ),
    row("c", record("c", "BN-RUN-1", "untested"), record("c", "BN-RUN-9", "stale")),
    MatrixRow("d", reason="it is not installed"),
]


class Elements(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.found if name in attrs]


def test_a_cell_has_the_verdict_in_words_and_leads_to_its_reason() -> None:
    a, b, c = columns(ROWS)
    assert [cell("BN-RUN-1", column).word for column in (a, b, c)] == ["passed", "failed", "untested"]
    assert [cell("BN-RUN-9", column).word for column in (a, b, c)] == ["known failure", "known failure", "stale waiver"]
    assert [cell("BN-SYNC-1", column).word for column in (a, b, c)] == ["not asked", "not supported", "not asked"]
    assert cell("BN-RUN-9", a).anchor == "BN-RUN-9/a"
    assert cell("BN-SYNC-1", a).anchor == ""
    assert cell("BN-RUN-9", a).label == "a, BN-RUN-9: known failure at level AA"


def test_a_failure_above_the_level_of_its_clause_shows_its_level() -> None:
    booked = {"BN-RUN-1": {"outcome": "failed", "reason": "y is off", "level": "AAA"}}
    column = columns([row("a", record("a", "BN-RUN-1", "failed", booked=booked))])[0]
    assert cell("BN-RUN-1", column).level == "AAA"
    assert [(level.level, level.held, level.asked, level.words) for level in column.levels] == [
        ("A", 1, 1, ""),
        ("AA", 0, 0, ""),
        ("AAA", 0, 1, "1 failed"),
    ]


def test_subjects_that_share_a_reason_are_told_together_failures_first() -> None:
    found = reasons("BN-RUN-9", columns(ROWS))
    assert [(r.outcome, r.level, r.text, r.link) for r in found] == [
        ("stale", "", "because", ""),
        ("waived", "AA", "it is known", "findings/a.md"),
    ]
    assert [column.name for column in found[1].columns] == ["a", "b"]
    assert [(x.column.name, x.problem, x.violation["got"]) for x in found[1].examples] == [
        ("a", "y is off", 1.0009765625),
        ("b", "y is off", 1.0009765625),
    ]
    passed = reasons("BN-RUN-1", columns(ROWS))[-1]
    assert [remark for _, remark in passed.remarks] == ["1 check, worst error 0.5 of its bound, in y"]


def test_a_violation_of_another_clause_is_told_there() -> None:
    violation = {"clauses": ["BN-NORM-1", "BN-RUN-1"], "subject": "a", "problem": "y is off", **NUMBERS}
    one = Record("t::t", ("BN-NORM-1", "BN-RUN-1"), "a", "failed", 0.1, violation=violation)
    found = columns([row("a", one)])
    assert reasons("BN-NORM-1", found)[0].examples[0].elsewhere == ""
    assert reasons("BN-RUN-1", found)[0].examples[0].elsewhere == "BN-NORM-1"


def test_conventions_are_told_by_value_beside_what_is_declared() -> None:
    rows = [
        row("a", findings=[finding("correction", "0"), finding("sync", "not observable", "not observable")]),
        row("b", findings=[finding("correction", "1", "differs", declared="0", source="row torch")]),
        row("c", findings=[finding("correction", "1", "undeclared")]),
    ]
    (found,) = conventions(columns(rows))
    assert {value: [one.column.name for one in own] for value, own in found.values.items()} == {
        "1": ["b", "c"],
        "0": ["a"],
    }
    assert found.differs == 1
    text = matrix_page(rows, "x")
    assert "✗ declares 0 (row torch)" in text
    assert "(declares nothing)" in text


def test_the_page_has_every_clause_with_all_its_characters_and_every_link_leads_somewhere() -> None:
    every = [record("a", clause, "passed") for clause in specification()]
    text = matrix_page([row("a", *every), *ROWS[1:]], "bnspec-conformance matrix")
    elements = Elements(text)
    assert {plain(clause.text) for clause in specification().values()} <= set(elements.values("title"))
    ids = elements.values("id")
    assert len(ids) == len(set(ids))
    inside = [link[1:] for link in elements.values("href") if link.startswith("#") and not link.startswith("#i-")]
    assert set(inside) <= set(ids)
    assert "BN-RUN-9/b" in inside
    assert "it is not installed" in text
    assert "<dt>Error</dt><dd>8192 ulp, bound 8 ulp</dd>" in text
    assert '<a href="findings/a.md" rel="noreferrer">' in text


def test_the_page_asks_for_nothing_and_shows_foreign_text_as_text() -> None:
    hostile = row(EVIL, record(EVIL, "BN-RUN-1", "failed", reason=EVIL), record(EVIL, "BN-RUN-9", "waived"))
    content = hostile.report
    assert content is not None
    content["subjects"][0] |= {"version": EVIL, "dialect": EVIL, "profiles": [EVIL]}
    content["versions"] = {EVIL: EVIL}
    content["notes"] = [EVIL]
    content["command"] = EVIL
    for check in content["checks"]:
        check["check"] = EVIL
        check["violation"] |= {"problem": EVIL, "case": EVIL, "script": EVIL}
        if check["waiver"]:
            check["waiver"]["applied"][0]["link"] = check["waiver"]["link"] = "javascript:alert(1)"
    hostile.findings = [finding(EVIL, EVIL, "differs", declared=EVIL, source=EVIL, note=EVIL)]
    text = matrix_page([hostile, MatrixRow(EVIL, reason=EVIL)], EVIL)
    elements = Elements(text)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 1
    assert "\x1b" not in text
    assert "\\x1b[2J\U0001f600 &amp;amp;" in text
    assert "default-src 'none'" in text
    assert not [link for link in elements.values("href") if not link.startswith(("#", "data:,"))]
    assert not re.search(r"@import|url\(|https?://|src=", text.replace("http-equiv", "").replace("default-src=", ""))


def test_a_clause_counts_its_verdicts_in_words() -> None:
    text = matrix_page(ROWS, "x")
    counts = re.findall(r'<span class="counts">(.*?)</span>', text)
    assert counts == [
        "1 failed, 1 passed, 1 untested",
        "1 stale waiver, 2 known failures",
        "1 not supported, 2 not asked",
    ]


def test_a_note_of_several_rows_is_told_once() -> None:
    said = {"a": ["both", "one"], "b": ["both"]}
    rows = [row(name, record(name, "BN-RUN-1", "passed"), notes=notes) for name, notes in said.items()]
    text = matrix_page(rows, "x")
    assert "<li><b>all</b> both</li><li><b>a</b> one</li>" in text


def test_no_rows_and_one_that_did_not_run_make_a_page() -> None:
    assert "No subject ran" in matrix_page([], "x")
    text = matrix_page([MatrixRow("gone", reason="not installed")], "x")
    assert "<dt>gone</dt><dd>not installed</dd>" in text
    assert 'class="grid' not in text


def test_two_rows_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows are of a subject called 'a'"):
        matrix_page([ROWS[0], ROWS[0]], "x")


@pytest.mark.parametrize(
    ("link", "base", "address"),
    [
        ("findings/a.md", "", "findings/a.md"),
        ("findings/a.md", "../docs/", "../docs/findings/a.md"),
        ("findings/a.md", "https://example.org/docs", "https://example.org/docs/findings/a.md"),
        ("https://example.org/1#c", "../docs", "https://example.org/1#c"),
        ("javascript:alert(1)", "", None),
        ("//example.org/a", "", None),
        ("/etc/passwd", "", None),
        ("findings/../../x", "", None),
        ("\\\\host\\x", "", None),
        ("https://", "", None),
        ("https://[", "", None),
        ("a\x1b.md", "", None),
        ("", "", None),
    ],
)
def test_only_links_of_the_web_and_of_the_documents_are_links(link: str, base: str, address: str | None) -> None:
    assert finding_link(link, base) == address


def test_a_folder_of_documents_is_a_path_or_an_address() -> None:
    assert [base_problem(base) for base in ("", "../docs", "docs", "https://example.org/docs")] == [None] * 4
    for base in ("javascript:x", "//example.org", "/docs", "https://", "a b"):
        assert "expected a path as the page sees it" in str(base_problem(base))


def test_rows_come_back_from_the_merged_report_as_they_were(tmp_path: Path) -> None:
    rows = [*ROWS[:2], row("e", record("e", "BN-RUN-1", "passed"), findings=[finding("correction", "0")]), ROWS[3]]
    assert rows[0].report is not None
    rows[0].report |= {"seed": 7, "interrupted": True, "partial": ["-x"], "notes": ["cut"], "sizes": "none"}
    write_json(tmp_path / "m.json", merged(rows, "matrix", 1.0))
    content = read_report(tmp_path / "m.json")
    again = rows_of(content)
    assert [json.dumps(r.__dict__, sort_keys=True) for r in again] == [
        json.dumps(r.__dict__, sort_keys=True) for r in rows
    ]
    assert matrix_page(again, "x") == matrix_page(rows, "x")


@pytest.mark.parametrize("place", [0, 1])
def test_a_merged_report_left_out_what_one_of_its_runs_left_out(place: int) -> None:
    rows = [row("a", record("a", "BN-RUN-1", "passed")), row("b", record("b", "BN-RUN-1", "passed"))]
    content = rows[place].report
    assert content is not None
    content |= {"interrupted": True, "partial": ["-x"], "sizes": "none"}
    found = merged(rows, "matrix", 1.0)
    assert (found["interrupted"], found["partial"], found["sizes"]) == (True, ["-x"], "none")


def test_a_merged_report_has_no_clause_that_no_run_was_asked_about() -> None:
    one = row("a", Record("t::t", ("BN-RUN-1", "BN-RUN-9"), "a", "passed", 0.1), asked={"BN-RUN-1"})
    assert list(merged([one], "x", 1.0)["clauses"]) == ["BN-RUN-1"]


def test_a_run_of_several_subjects_has_a_row_for_each(tmp_path: Path) -> None:
    whole = merged(ROWS[:2], "x", 1.0)
    del whole["rows"]
    write_json(tmp_path / "run.json", whole)
    a, b = read_rows([tmp_path / "run.json"])
    assert (a.name, b.name) == ("a", "b")
    assert {check["subject"] for check in b.report["checks"]} == {"b"}
    assert all(list(entry["subjects"]) == ["b"] for entry in b.report["clauses"].values())
    assert b.report["clauses"]["BN-RUN-1"]["verdict"] == "failed"
    assert "BN-SYNC-1" not in a.report["clauses"]
    with pytest.raises(BadReport, match="both have the subject 'a'"):
        read_rows([tmp_path / "run.json", tmp_path / "run.json"])


def test_a_page_and_badges_are_made_of_reports_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for one in ROWS[:2]:
        assert one.report is not None
        write_json(f"{one.name}.json", one.report)
    words = ["report", "--matrix", "a.json", "b.json", "--output", "p.html", "--badges", "badges", "--docs", "../docs"]
    assert main(words) == 0
    text = Path("p.html").read_text()
    assert 'href="../docs/findings/a.md"' in text
    assert "bnspec-conformance report --matrix a.json b.json" in text
    assert sorted(path.name for path in Path("badges").iterdir()) == ["a.svg", "b.svg"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--matrix", "no.json", "-o", "p.html"], "no.json is no JSON file"),
        (["--matrix", "bad.json", "-o", "p.html"], "bad.json is no report of bnspec-conformance"),
        (["--matrix", "bad.json", "-o", "p.html", "--docs", "javascript:x"], "--docs is 'javascript:x'"),
        (["--history", ".", "-o", "p.html", "--badges", "b"], "--badges and --docs go with --matrix"),
    ],
)
def test_wrong_calls_of_report_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{}")
    assert main(["report", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("p.html").exists()


def test_a_row_that_does_not_fit_its_form_is_refused(tmp_path: Path) -> None:
    content = merged(ROWS[:1], "x", 1.0)
    content["rows"][0]["findings"] = [{"convention": "correction"}]
    write_json(tmp_path / "m.json", content)
    with pytest.raises(BadReport, match="rows/0/findings/0: 'group' is a required property"):
        read_rows([tmp_path / "m.json"])


def test_a_subject_whose_name_is_not_what_was_asked_for_has_its_marks_in_the_table() -> None:
    one = row("my-port", record("my-port", "BN-RUN-1", "failed"))
    one.subject = "my_port:port"
    report = merged([one], "x", 1.0)
    text = markdown_page([one], report, "x")
    assert "| BN-RUN-1 | A | ✗ |" in text
    assert "### my-port" in text


def test_matrix_asks_for_each_subject_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "numpy", "numpy"]) == 2
    assert "subject 'numpy' is asked for twice; name it once." in capsys.readouterr().err


def test_matrix_writes_the_page_the_badges_and_a_report_that_makes_the_page_again(tmp_path: Path) -> None:
    few = ["--clause", "BN-SHAPE-3", "--max-examples", "2"]
    outputs = ["--html", "p.html", "--badges", "badges", "--json", "m.json", "-o", "m.md"]
    done = command("matrix", "numpy", "no-such", *few, *outputs, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    text = (tmp_path / "p.html").read_text()
    assert '<tr class="line" data-clause="BN-SHAPE-3" data-level="A">' in text
    assert '<th scope="rowgroup" rowspan="1">decay multiplies' in text
    assert "<dt>no-such</dt><dd>unknown subject" in text
    assert [path.name for path in (tmp_path / "badges").iterdir()] == ["numpy.svg"]
    assert matrix_page(read_rows([tmp_path / "m.json"]), "bnspec-conformance matrix numpy no-such") == text
