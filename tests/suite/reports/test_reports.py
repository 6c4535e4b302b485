"""What a run writes: the report as JSON, as JUnit's XML, as a page and as a table, and what it says of wrong calls."""

import dataclasses
import html.parser
import io
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import junitparser
import pytest
from suite_command import command

import bnspec
from bnspec._clauses import clauses as specification
from bnspec_conformance import find_subject
from bnspec_conformance.report import (
    BadReport,
    Progress,
    by_clause,
    document,
    read_report,
    table,
    write_html,
    write_json,
    write_junit,
)
from bnspec_conformance.report.facts import device_of, libraries
from bnspec_conformance.report.files.failures import failure_name, write_failures
from bnspec_conformance.report.files.output_paths import unusable
from bnspec_conformance.report.json_document import record_from_json
from bnspec_conformance.report.pages.plot import Scale, axis, interval
from bnspec_conformance.run.restricted import only_profiles, without_dtypes
from bnspec_conformance.subjects import complete
from bnspec_conformance.trials.record import Record, Worst

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WORST = Worst(0.5, 0.25, 0.5, "y", "float32(2,3) axis=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every output of one run, of a subject that forgets to update its state and of one that is right."""
    folder = tmp_path_factory.mktemp("run")
    clauses = [word for clause in ("BN-RUN-1", "BN-MOM-1", "BN-SYNC-1") for word in ("--clause", clause)]
    outputs = ["--json", "out.json", "--junit", "out.xml", "--html", "out.html", "--failures", "failures"]
    done = command(
        "run",
        "wrong_subjects:forgetful",
        "wrong_subjects:right",
        *clauses,
        "--max-examples",
        "4",
        "--sizes",
        "none",
        *outputs,
        cwd=folder,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return read_report(folder / "out.json")


def record(outcome: str, clauses: tuple[str, ...] = ("BN-RUN-1",), **more: Any) -> Record:
    more = {"subject": "numpy", "check": "test_running::test_exponential", "seconds": 0.25} | more
    violation = {"clauses": list(clauses), "subject": more["subject"], "problem": "y is off", "case": None}
    if outcome in ("failed", "waived"):
        more = {"violation": violation, "reason": "BN-RUN-1: numpy: y is off"} | more
    if outcome in ("waived", "stale"):
        more = {"waiver": {"entry": 1, "reason": "known", "applied": [{"entry": 1}]}} | more
    return Record(clauses=clauses, outcome=outcome, **more)


def made(*records: Record, **more: Any) -> dict[str, Any]:
    """The report of records made by hand."""
    names = dict.fromkeys(r.subject for r in records)
    subjects = {name: dataclasses.replace(find_subject("numpy"), name=name) for name in names}  # type: ignore[type-var]
    return document(records, subjects, **({"seed": 0, "max_examples": 4, "seconds": 1.0, "command": "run"} | more))


# JSON -----------------------------------------------------------------------------------------------------


def test_a_report_says_what_was_run_where_and_how(report: dict[str, Any]) -> None:
    assert report["format"] == "bnspec-report/1"
    assert report["bnspec"] == report["versions"]["bnspec"] == bnspec.__version__
    assert report["versions"].keys() >= {"numpy", "hypothesis", "ml_dtypes"}
    assert [s["asked"] for s in report["subjects"]] == ["wrong_subjects:forgetful", "wrong_subjects:right"]
    assert (report["seed"], report["max_examples"]) == (0, 4)
    words = "bnspec-conformance run wrong_subjects:forgetful wrong_subjects:right --clause BN-RUN-1"
    assert report["command"].startswith(words)
    row = report["clauses"]["BN-RUN-1"]
    assert row["verdict"] == row["subjects"]["wrong_subjects:forgetful"]["verdict"] == "failed"
    assert row["subjects"]["wrong_subjects:right"]["verdict"] == "passed"
    assert 0 < row["subjects"]["wrong_subjects:right"]["worst"]["share"] <= 1
    assert report["clauses"]["BN-SYNC-1"]["subjects"]["wrong_subjects:right"]["reasons"] == ["it knows no ranks"]
    # Names come from the subjects themselves; they have a colon, and tests' ids have more after it.
    assert {c["subject"] for c in report["checks"]} == {"wrong_subjects:forgetful", "wrong_subjects:right"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), "bnspec-report/2", "'bnspec-report/1' was expected"),
        (("checks", 0, "outcome"), "great", "checks/0/outcome: 'great'"),
        (("checks", 0, "clauses"), [], "checks/0/clauses"),
        (("clauses", "BN-RUN-1", "verdict"), "unlooked", "clauses/BN-RUN-1/verdict"),
        (("subjects", 0, "arithmetic"), "float16", "subjects/0/arithmetic"),
        (("seconds",), "long", "seconds: 'long'"),
        (("date",), "yesterday", "date: 'yesterday'"),
    ],
)
def test_the_schema_refuses(folder: Path, tmp_path: Path, path: tuple[Any, ...], value: object, said: str) -> None:
    content = json.loads((folder / "out.json").read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(BadReport, match=re.escape(said)):
        read_report(tmp_path / "r.json")


def test_a_failure_without_its_violation_is_no_report(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "out.json").read_text())
    next(c for c in content["checks"] if c["outcome"] == "failed")["violation"] = None
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(BadReport, match="violation"):
        read_report(tmp_path / "r.json")


def test_numbers_that_are_not_finite_are_texts_in_the_file_and_numbers_again_after_it(tmp_path: Path) -> None:
    where = {"what": "y", "rank": 0, "index": (0,), "got": math.nan, "expected": -math.inf, "bound_ulp": 0.0}
    violation = {"clauses": ["BN-RUN-1"], "subject": "numpy", "problem": "y is off", "case": None}
    failed = record("failed", violation=violation | where | {"error_ulp": math.inf})
    passed = record("passed", worst=dataclasses.replace(WORST, error_ulp=math.inf))
    write_json(tmp_path / "r.json", made(failed, passed))
    assert not re.search(r"\b(NaN|Infinity)\b", (tmp_path / "r.json").read_text())
    first, second = (record_from_json(c) for c in read_report(tmp_path / "r.json")["checks"])
    assert first.violation is not None
    assert math.isnan(first.violation["got"])
    assert (first.violation["expected"], first.violation["error_ulp"]) == (-math.inf, math.inf)
    assert second.worst is not None
    assert second.worst.error_ulp == math.inf


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": NaN}', "\xff", "[" * 100_000])
def test_what_is_no_report_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadReport, match=r"r\.json is no"):
        read_report(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["passed"], "passed"),
        (["passed", "not supported"], "passed in part"),
        (["passed", "untested"], "passed"),
        (["untested", "not supported"], "untested"),
        (["not supported"], "not supported"),
        (["passed", "waived", "untested"], "waived"),
        (["passed", "waived", "failed"], "failed"),
        (["passed", "stale"], "failed"),
    ],
)
def test_the_verdict_on_a_clause_follows_from_its_checks(outcomes: list[str], verdict: str) -> None:
    row = by_clause([record(o, reason=f"because {o}") for o in outcomes])["BN-RUN-1"]
    entry = row["subjects"]["numpy"]
    assert row["verdict"] == entry["verdict"] == verdict
    assert {o: entry[o] for o in set(outcomes)} == Counter(outcomes)
    assert entry["seconds"] == 0.25 * len(outcomes)


def test_the_verdict_on_a_clause_is_that_of_the_worst_subject_and_the_worst_error_the_largest() -> None:
    small = record("passed", worst=WORST)
    large = record("passed", subject="torch", worst=dataclasses.replace(WORST, share=0.75))
    assert by_clause([small, large])["BN-RUN-1"]["worst"]["share"] == 0.75
    rows = by_clause([small, record("not supported", subject="torch", reason="no")])
    assert rows["BN-RUN-1"]["verdict"] == "passed"
    assert rows["BN-RUN-2"] == {"level": "A", "verdict": "unlooked", "worst": None, "subjects": {}}


def test_what_is_outside_a_scope_is_not_supported_unless_a_check_says_more() -> None:
    lacking = {"numpy": {"BN-RUN-8": "it has no ghost", "BN-RUN-1": "it has no ghost"}}
    rows = by_clause([record("passed")], lacking)
    assert rows["BN-RUN-8"]["subjects"]["numpy"]["reasons"] == ["it has no ghost"]
    assert rows["BN-RUN-8"]["verdict"] == "not supported"
    assert rows["BN-RUN-1"]["verdict"] == "passed"


# Failures -------------------------------------------------------------------------------------------------


def test_every_failure_has_a_file_and_what_passes_now_has_none(folder: Path, report: dict[str, Any]) -> None:
    failed = {failure_name(c["subject"], c["check"]) for c in report["checks"] if c["outcome"] == "failed"}
    assert {p.name for p in (folder / "failures").iterdir()} == failed != set()
    assert all(f"replay failures/{name}" in (folder / "said.txt").read_text() for name in failed)


def test_the_file_of_a_failure_that_is_gone_is_removed_and_others_stay(tmp_path: Path) -> None:
    failed, other = record("failed"), record("failed", check="test_running::test_pooled")
    assert len(write_failures(tmp_path, made(failed, other), [failed, other])) == 2
    (tmp_path / "mine.json").write_text("{}")
    passed = record("passed")
    assert write_failures(tmp_path, made(passed), [passed]) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.json", failure_name("numpy", other.check)]


# JUnit ----------------------------------------------------------------------------------------------------


def test_junit_xml_counts_what_the_report_has(folder: Path, report: dict[str, Any]) -> None:
    suites = list(junitparser.JUnitXml.fromfile(str(folder / "out.xml")))
    assert [s.name for s in suites] == ["wrong_subjects:forgetful", "wrong_subjects:right"]
    for suite in suites:
        pairs = [(c, r) for r in report["checks"] if r["subject"] == suite.name for c in r["clauses"]]
        assert [(case.classname, case.name) for case in suite] == [(f"{suite.name}.{c}", r["check"]) for c, r in pairs]
        outcomes = Counter(r["outcome"] for _, r in pairs)
        assert suite.tests == len(pairs)
        assert suite.failures == outcomes["failed"]
        assert suite.skipped == outcomes["not supported"] + outcomes["untested"]
        assert {p.name: p.value for p in suite.properties()}["seed"] == "0"
        kinds = Counter(type(entry).__name__ for case in suite for entry in case.result)
        assert (kinds["Failure"], kinds["Skipped"]) == (suite.failures, suite.skipped)
    failure = next(entry for case in suites[0] for entry in case.result if isinstance(entry, junitparser.Failure))
    assert failure.message == "state.mean is off"
    assert "to reproduce it, run:" in str(failure.text)
    counted = junitparser.JUnitXml.fromfile(str(folder / "out.xml"))
    assert counted.tests == sum(s.tests for s in suites)
    assert counted.failures == sum(s.failures for s in suites) > 0


def test_junit_xml_says_why_something_is_skipped_or_stale_and_holds_any_text(tmp_path: Path) -> None:
    waiver = {"entry": 2, "reason": "a <known> \x00 one", "expires": "2030-01-31", "applied": [{"entry": 2}]}
    records = [
        record("waived", waiver=waiver),
        record("stale", check="w.toml::entry 3", reason="it passes; remove the entry"),
        record("not supported", reason="it has no ghost"),
        record("passed"),
    ]
    write_junit(tmp_path / "r.xml", made(*records))
    suite = next(iter(junitparser.JUnitXml.fromfile(str(tmp_path / "r.xml"))))
    waived, stale, outside, passed = suite
    assert waived.result[0].message == "waived: a <known> \N{REPLACEMENT CHARACTER} one, until 2030-01-31"
    assert (stale.result[0].type, stale.result[0].text) == ("stale", "it passes; remove the entry")
    assert outside.result[0].message == "not supported: it has no ghost"
    assert passed.result == []
    assert (suite.tests, suite.failures, suite.skipped, suite.errors) == (4, 1, 2, 0)


# The page -------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a page refers to, and the text of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_holds_all_it_needs(folder: Path, report: dict[str, Any]) -> None:
    text = (folder / "out.html").read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttp", text.replace("http-equiv", ""))
    assert "default-src 'none'" in text
    assert "wrong_subjects:forgetful breaks 2 of the" in page.words
    violation = next(c["violation"] for c in report["checks"] if c["outcome"] == "failed")
    for part in (violation["case"], float(violation["got"]).hex(), violation["script"], report["command"]):
        assert part in page.words
    measured = [e for row in report["clauses"].values() for e in row["subjects"].values() if e["worst"] or e["failed"]]
    assert text.count('<svg class="plot" role="img"') == len(measured) > 5
    text_of_clause = specification()["BN-RUN-1"].text.split("`")[0].split("*")[0].split("\n")[0][:30]
    assert text_of_clause in page.words


def test_the_page_shows_foreign_text_as_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    waiver = {"entry": 1, "reason": evil, "link": "javascript:alert(1)", "applied": [{"entry": 1}]}
    violation = {"clauses": ["BN-RUN-1"], "subject": evil, "problem": evil, "case": evil, "script": evil, "drawn": None}
    records = [
        record("waived", subject=evil, waiver=waiver, violation=violation),
        record("not supported", clauses=("BN-RUN-2",), subject=evil, reason=evil),
    ]
    write_html(tmp_path / "r.html", made(*records, command=evil))
    page = Page((tmp_path / "r.html").read_text())
    assert page.tags["script"] == 1
    assert not any(link.startswith("javascript") for link in page.links)
    assert page.words.count(evil) > 5


def test_the_page_tells_an_error_next_to_zero_as_it_is(tmp_path: Path) -> None:
    numbers = {"got": 0.25, "expected": 0.0, "error": 0.25, "bound": 0.125, "error_ulp": 1e44, "bound_ulp": 5e43}
    violation = {"clauses": ["BN-RUN-1"], "subject": "numpy", "problem": "y is off", "case": "float32(2,1)"}
    far = violation | {"what": "y", "rank": 0, "index": (0,), "script": None, "drawn": None} | numbers
    near = far | {"expected": 1.0, "error_ulp": 300.0, "bound_ulp": 2.0}
    for given, said, plots in ((far, "0.25, bound 0.125 (absolute: expected", 0), (near, "300 ulp, bound 2 ulp", 1)):
        write_html(tmp_path / "r.html", made(record("failed", violation=given)))
        text = (tmp_path / "r.html").read_text()
        assert said in Page(text).words
        assert text.count('<svg class="plot" role="img"') == plots


def test_the_page_links_a_waiver_and_shows_what_is_stale(tmp_path: Path) -> None:
    waiver = {"entry": 1, "reason": "slow path", "link": "https://example.org/7", "applied": [{"entry": 1}]}
    stale = record("stale", clauses=("BN-RUN-2",), check="w.toml::entry 3", reason="it passes; remove the entry")
    write_html(tmp_path / "r.html", made(record("waived", waiver=waiver), stale, notes=["stale: numpy"]))
    page = Page((tmp_path / "r.html").read_text())
    assert "https://example.org/7" in page.links
    assert "slow path" in page.words
    assert '<p class="note">stale: numpy</p>' in (tmp_path / "r.html").read_text()
    assert "it passes; remove the entry" in page.words


@pytest.mark.parametrize(
    ("records", "headline"),
    [
        ([record("passed")], "numpy keeps the 1 clause that applies to it"),
        ([record("passed"), record("passed", ("BN-RUN-2",))], "numpy keeps all 2 clauses that apply to it"),
        ([record("waived")], "numpy breaks 1 of the 1 clause that applies to it, all of them known"),
        ([record("passed"), record("untested", ("BN-RUN-2",))], "numpy keeps 1 of the 2 clauses that apply to it"),
        ([record("not supported")], "No clause applies to numpy"),
        ([record("failed"), record("passed", subject="torch")], "numpy breaks 1 of the 1 clause that applies to it"),
        ([record("failed"), record("failed", subject="torch")], "2 of 2 subjects break a clause"),
        ([record("passed"), record("passed", subject="torch")], "None of 2 subjects breaks a clause"),
        ([record("waived"), record("passed", subject="b")], "None of 2 subjects breaks a clause beyond what is known"),
    ],
)
def test_the_headline_is_the_result(tmp_path: Path, records: list[Record], headline: str) -> None:
    write_html(tmp_path / "r.html", made(*records))
    assert f"<h1>{headline}</h1>" in (tmp_path / "r.html").read_text()


def browse(target: str, folder: Path) -> tuple[str, bytes]:
    """Open an address in a browser without a window; the page after its script has run, and a picture of it."""
    assert BROWSER is not None
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    picture = folder / "page.png"
    wanted = [f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", "--window-size=900,700", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *wanted, target],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, picture.read_bytes()


def visible_rows(dom: str) -> list[str]:
    rows = re.findall(r"<tr class=\"clause [^>]*>", dom)
    return [re.findall(r'data-clause="([^"]+)"', row)[0] for row in rows if not re.search(r"\shidden\b", row)]


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize(
    ("address", "verdict", "subjects", "family"),
    [
        ("#failures", "failed", ("wrong_subjects:forgetful", "wrong_subjects:right"), "BN-"),
        ("#passed&subject=wrong_subjects%3Aright&family=BN-RUN", "passed", ("wrong_subjects:right",), "BN-RUN-"),
    ],
)
def test_the_page_filters_and_is_drawn_in_a_browser(
    folder: Path,
    report: dict[str, Any],
    tmp_path: Path,
    address: str,
    verdict: str,
    subjects: tuple[str, ...],
    family: str,
) -> None:
    expected = [
        clause
        for clause, row in report["clauses"].items()
        if any(row["subjects"].get(s, {}).get("verdict") == verdict for s in subjects) and clause.startswith(family)
    ]
    assert 0 < len(expected) < len(report["clauses"])
    dom, picture = browse((folder / "out.html").as_uri() + address, tmp_path)
    assert visible_rows(dom) == expected
    assert f'aria-live="polite">{len(expected)} of {len(report["clauses"])}</output>' in dom
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])) == (900, 700)
    assert len(picture) > 20_000  # an empty page has less than 10 kB


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")
def test_a_link_opens_a_clause_in_a_browser(folder: Path, report: dict[str, Any], tmp_path: Path) -> None:
    supported = [clause for clause, row in report["clauses"].items() if row["verdict"] != "not supported"]
    outside = next(clause for clause in report["clauses"] if clause not in supported)
    for clause in ("BN-RUN-1", outside):
        dom, _ = browse(f"{(folder / 'out.html').as_uri()}#{clause}", tmp_path)
        # What nobody supports is folded, but for the family of the clause that is looked for.
        family = [c for c in report["clauses"] if clause == outside and c.startswith(outside.rpartition("-")[0])]
        assert visible_rows(dom) == [c for c in report["clauses"] if c in supported or c in family]
        assert re.findall(r'<div class="detail" id="(.*)-detail">', dom) == [clause]
        assert dom.count('hidden="until-found"') == len(report["clauses"]) - 1


def test_a_plot_places_error_and_bound_and_marks_what_is_beyond() -> None:
    scale = Scale.of([0.25, 3.0], [0.5, 0.0])
    assert scale.place(0.25) < scale.place(0.5) < scale.place(3.0)
    assert scale.place(0.0) < scale.place(1e-30) < scale.place(0.25)
    assert "wrong" not in interval(scale, 0.25, 0.5)
    assert "wrong" in interval(scale, 3.0, 0.5)
    assert "wrong" in interval(scale, 1e-3, 0.0)
    for far in (1e300, math.inf, math.nan):  # an arrow rather than a dot
        assert '<path class="wrong"' in interval(Scale.of([far], [0.5]), far, 0.5)
    assert axis(scale).count("<text") >= 2


# The terminal ---------------------------------------------------------------------------------------------


def test_the_table_of_one_subject_says_why(report: dict[str, Any]) -> None:
    out = io.StringIO()
    table(made(record("passed", worst=WORST), record("not supported", ("BN-RUN-2",), reason="it has no layers")), out)
    assert re.search(r"BN-RUN-1 +A +1 +0\.50 +0\.2 +passed", out.getvalue())
    assert "1 clause not supported (--all lists them):\n   1  it has no layers\n" in out.getvalue()
    assert f"2 of {len(specification())} clauses looked at: 1 passed, 1 not supported, in 1 s" in out.getvalue()


def test_the_table_of_several_subjects_has_a_column_for_each_and_breaks_where_they_are_many() -> None:
    out = io.StringIO()
    names = [f"subject-{i:02}" for i in range(20)]
    table(made(*(record("failed" if i == 3 else "passed", subject=n) for i, n in enumerate(names))), out)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("FAILED") == 1
    for name in names:
        assert f"{name}: 1 of {len(specification())} clauses looked at" in text
    assert len(re.findall(r"^clause ", text, re.M)) == 3


def test_progress_in_a_pipe_is_plain_lines() -> None:
    out = io.StringIO()
    progress = Progress(12, out)
    for i in range(12):
        progress.advance(record("failed" if i == 4 else "waived" if i == 5 else "passed"))
    progress.close()
    assert out.getvalue().splitlines() == [
        "[5/12] failed: numpy: test_running::test_exponential (BN-RUN-1)",
        "[10/12] 1 failed",
        "[12/12] 1 failed",
    ]


# Calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "folders", "said"),
    [
        ({"--json": "no/r.json"}, {}, r"--json no/r\.json cannot be written: there is no folder no; make it first"),
        ({"--html": "there"}, {}, "it is a folder; name a file in it"),
        ({"--json": "a", "--junit": "there/../a"}, {}, "--json and --junit both write"),
        ({}, {"--failures": "file"}, "it is a file; name a folder"),
        ({"--json": "/proc/no"}, {}, "choose another path"),
    ],
)
def test_outputs_that_cannot_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], folders: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("kept")
    assert re.search(said, str(unusable(files, folders)))


def test_outputs_that_can_be_written_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    assert unusable({"--json": "new.json", "--html": "file", "--junit": None}, {"--failures": "a/b"}) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "file"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "no/out.json"], "there is no folder no"),
        (["numpy"], "'numpy' is asked for twice"),
        (["--profile", "speed"], "no profile 'speed'; expected some of core"),
        (["--update-waivers"], "name it with --waivers FILE"),
        (["--clause", "BN-RUN-1", "-k", "nothing"], "no check is left"),
    ],
)
def test_wrong_calls_end_at_once_with_status_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = command("run", "numpy", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


# Scopes and facts -----------------------------------------------------------------------------------------


def test_a_subject_with_fewer_profiles_keeps_core_and_everything_else() -> None:
    numpy = find_subject("numpy")
    narrow = only_profiles(numpy, ["grad"])
    assert narrow.scope.profiles == {"core", "grad"}
    assert (narrow.name, narrow.version(), narrow.backend) == (numpy.name, numpy.version(), numpy.backend)
    with pytest.raises(ValueError, match="no profile 'fast'; expected some of core"):
        only_profiles(numpy, ["fast"])
    with pytest.raises(ValueError, match="numpy has no sync; its profiles are core, grad"):
        only_profiles(narrow, ["sync"])


def test_a_subject_without_some_dtypes() -> None:
    numpy = find_subject("numpy")
    narrow = without_dtypes(numpy, ["float16"])
    assert narrow is not None
    assert set(narrow.scope.dtypes) == set(numpy.scope.dtypes) - {"float16"}
    assert without_dtypes(numpy, numpy.scope.dtypes) is None


def test_the_library_under_test_is_the_first_that_is_not_bnspec() -> None:
    assert libraries("bnspec 0.1.0 on torch 2.13.0+cpu") == [("torch", "2.13.0+cpu"), ("bnspec", "0.1.0")]
    assert libraries("flax 0.12.8, jax 0.10.2") == [("flax", "0.12.8"), ("jax", "0.10.2")]
    assert libraries("wrong_subjects:right") == []


def test_the_device_is_what_a_subject_says_else_its_librarys() -> None:
    class Port:
        def supports(self, case: object) -> None:
            return None

        def run(self, case: object) -> None:
            raise NotImplementedError

    port = Port()
    assert device_of(complete(port, "port")) == "cpu"
    port.device = "npu"  # type: ignore[attr-defined]
    assert device_of(port) == "npu"
    assert device_of(find_subject("numpy")) == "cpu"
