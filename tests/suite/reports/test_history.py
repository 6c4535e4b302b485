"""A page of several reports: what changed when, by level; files that are none are named and change nothing else."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bnspec_conformance import find_subject
from bnspec_conformance.cli import main
from bnspec_conformance.report import BadReport, document, write_json
from bnspec_conformance.report.pages.history import Dated, histories, read_history, write_history
from bnspec_conformance.trials.record import Record

Report = dict[str, Any]


def made(day: int, outcomes: dict[str, str], name: str = "numpy", **more: Any) -> Report:
    records = []
    for clause, said in outcomes.items():
        outcome, _, level = said.partition(" at ")
        violation = {"clauses": [clause], "subject": name, "problem": "y is off", "case": None}
        told = {"outcome": outcome, "reason": "y is off", "level": level}
        booked = {clause: told} if level else {}
        failed = violation if outcome == "failed" else None
        check = f"test_a::test_{clause}"
        records.append(Record(check, (clause,), name, outcome, 0.1, violation=failed, booked=booked))
    content = document(records, {name: find_subject("numpy")}, seed=0, max_examples=4, seconds=1.0, command="run")
    content["subjects"][0]["name"] = name
    return content | {"date": f"2027-01-{day:02}T10:00:00+00:00"} | more


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs in files whose names are not in the order of their dates."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reports"
    folder.mkdir()
    write_json(folder / "c.json", made(1, {"BN-RUN-1": "passed", "BN-RUN-9": "failed", "BN-RUN-3": "failed at AAA"}))
    write_json(folder / "a.json", made(2, {"BN-RUN-1": "failed", "BN-RUN-9": "failed", "BN-RUN-3": "failed at A"}))
    write_json(folder / "b.json", made(3, {"BN-RUN-1": "passed", "BN-RUN-9": "passed", "BN-RUN-3": "passed"}))
    return folder


def changes(reports: list[Dated], name: str = "numpy") -> list[dict[str, list[tuple[str, str, str, bool]]]]:
    return [
        {level: [(c.name, c.old, c.new, c.worse) for c in found] for level, found in point.changes.items()}
        for point in histories(reports)[name]
    ]


def test_runs_are_in_the_order_of_their_dates_and_say_what_changed_by_level(folder: Path) -> None:
    reports, broken = read_history(folder)
    assert broken == []
    assert [dated.file for dated in reports] == ["c.json", "a.json", "b.json"]
    first, second, third = changes(reports)
    assert first == {}
    assert second == {
        "A": [("BN-RUN-1", "passed", "failed", True), ("BN-RUN-3", "failed at AAA", "failed at A", True)],
    }
    assert third == {
        "A": [("BN-RUN-1", "failed", "passed", False), ("BN-RUN-3", "failed", "passed", False)],
        "AA": [("BN-RUN-9", "failed", "passed", False)],
    }


def test_a_subject_is_compared_with_its_own_run_before(folder: Path) -> None:
    write_json(folder / "z.json", made(4, {"BN-RUN-1": "failed"}, name="torch"))
    write_json(folder / "y.json", made(5, {"BN-RUN-1": "failed", "BN-RUN-9": "passed", "BN-RUN-3": "passed"}))
    reports, _ = read_history(folder)
    assert changes(reports)[-1] == {"A": [("BN-RUN-1", "passed", "failed", True)]}
    assert changes(reports, "torch") == [{}]


@pytest.mark.parametrize("less", [{"partial": ["--clause"]}, {"interrupted": True}])
def test_what_a_part_of_the_suite_did_not_look_at_is_no_change(folder: Path, less: Report) -> None:
    for file in folder.iterdir():
        file.unlink()
    write_json(folder / "a.json", made(1, {"BN-RUN-1": "passed", "BN-RUN-9": "passed"}))
    write_json(folder / "b.json", made(2, {"BN-RUN-1": "failed"}, **less))
    reports, _ = read_history(folder)
    assert changes(reports)[-1] == {"A": [("BN-RUN-1", "passed", "failed", True)]}
    write_json(folder / "b.json", made(2, {"BN-RUN-1": "failed"}))
    reports, _ = read_history(folder)
    assert ("BN-RUN-9", "passed", "unlooked", True) in changes(reports)[-1]["AA"]


def test_files_that_are_no_report_are_named_and_change_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--history", "reports", "--output", "clean.html"]) == 0
    assert capsys.readouterr().out == "wrote clean.html: 3 reports from 2027-01-01 to 2027-01-03\n"
    (folder / "empty.json").write_text("")
    (folder / "foreign.json").write_text('{"format": "something/1"}')
    (folder / "undated.json").write_text(json.dumps(made(1, {}) | {"date": "2027-19-01T10:00:00+00:00"}))
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "notes.txt").write_text("not read")
    assert main(["report", "--history", "reports", "--output", "page.html"]) == 0
    errors = capsys.readouterr().err
    names = ("empty", "foreign", "undated", "folder", "pipe")
    assert all(f"left out: reports/{name}.json is no " in errors for name in names)
    clean, page = (Path(name).read_text() for name in ("clean.html", "page.html"))
    assert page.count('<p class="note">') == 5
    assert re.sub(r" *<p class=\"note\">.*</p>\n", "", page) == clean


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--history", "nowhere", "-o", "p.html"], "--history nowhere is no folder"),
        (["--history", "bare", "-o", "p.html"], "--history bare has no report of run --json."),
        (["--history", "reports", "-o", "no/p.html"], "there is no folder no"),
    ],
)
def test_wrong_calls_are_refused(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    Path("bare").mkdir()
    assert main(["report", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("p.html").exists()


def test_a_folder_of_broken_files_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(BadReport, match=r"has no report of run --json\. .*a\.json is no JSON file"):
        read_history(tmp_path)


def test_the_page_needs_nothing_else_and_shows_foreign_text_as_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[2J"
    content = made(1, {"BN-RUN-1": "failed"}, name=evil)
    content["subjects"][0]["version"] = evil
    content["versions"] = {evil: evil}
    later = json.loads(json.dumps(content)) | {"date": "2027-01-02T10:00:00+00:00", "versions": {}, "partial": [evil]}
    write_history(tmp_path / "h.html", [Dated(evil, content), Dated(evil, later)], [evil])
    text = (tmp_path / "h.html").read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|https?://|src=", text.replace("http-equiv", "").replace("default-src=", ""))
