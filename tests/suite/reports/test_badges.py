"""Badges: the level that a statement claims and no other, names that stay where they are, and one file a subject."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from suite_command import command

from bnspec_conformance import find_subject
from bnspec_conformance.matrix.badges import write_badges
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.report import document
from bnspec_conformance.report.badge import badge, badge_name, badge_text
from bnspec_conformance.report.statement import statement
from bnspec_conformance.trials.record import Record

SVG = "{http://www.w3.org/2000/svg}"
EVIL = '</title><script>alert("1")</script>\x1b\U0001f600&amp;\uffff'


def record(outcome: str, clause: str) -> Record:
    more: dict[str, Any] = {}
    if outcome in ("failed", "waived"):
        more["violation"] = {"clauses": [clause], "subject": "numpy", "problem": "it is off", "case": None}
    if outcome == "waived":
        more["waiver"] = {"entry": 1, "reason": "known", "applied": [{"entry": 1, "reason": "known"}]}
    return Record(f"test_a::test_{clause}", (clause,), "numpy", outcome, 0.1, reason="it is off", **more)


def report(*records: Record, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"seed": 0, "max_examples": None, "seconds": 1.0, "command": "bnspec-conformance run numpy"}
    return document(records, {"numpy": find_subject("numpy")}, **(given | more))


#: One clause of each level.
KEPT = [record("passed", clause) for clause in ("BN-RUN-1", "BN-RUN-4", "BN-NORM-3")]


def said(content: dict[str, Any]) -> tuple[str, str, str]:
    return badge_text(content, content["subjects"][0])


def test_a_badge_names_the_specification_the_level_and_the_share_of_profiles() -> None:
    content = report(*KEPT)
    label, message, title = said(content)
    assert (label, message) == ("bnspec SPEC 1.0", "level AAA, all profiles")
    assert title.startswith(f"numpy ({find_subject('numpy').version()}) conforms to bnspec SPEC 1.0, level AAA, ")
    content["subjects"][0]["profiles"] = ["core", "grad"]
    assert said(content)[1] == "level AAA, 2 of 11 profiles"
    assert "profiles core, grad;" in said(content)[2]


@pytest.mark.parametrize("outcome", ["failed", "waived", "untested"])
@pytest.mark.parametrize(("clause", "level"), [("BN-RUN-3", None), ("BN-RUN-9", "A"), ("BN-NORM-5", "AA")])
def test_a_known_failure_is_no_pass_and_the_level_is_the_one_of_the_statement(
    outcome: str, clause: str, level: str | None
) -> None:
    content = report(*KEPT, record(outcome, clause))
    message = said(content)[1]
    assert message == ("level A not reached" if level is None else f"level {level}, all profiles")
    assert (f"level {level}, profiles" in statement(content)) == (level is not None)


@pytest.mark.parametrize(
    "more", [{"partial": ["--clause"]}, {"interrupted": True}, {"sizes": "none"}, {"notes": ["stale: entry 1"]}]
)
def test_a_run_that_shows_less_has_no_level(more: dict[str, Any]) -> None:
    for records in (KEPT, [*KEPT, record("failed", "BN-RUN-3")]):
        label, message, title = said(report(*records, **more))
        assert message == "no claim"
        assert "level AA" not in badge(report(*records, **more), report(*KEPT)["subjects"][0]) or "level A " in title
        assert label == "bnspec SPEC 1.0"


def test_a_title_of_many_reasons_counts_the_rest() -> None:
    assert said(report(*KEPT, notes=[f"note {i}" for i in range(9)]))[2].endswith("note 2; and 6 more reasons.")


def test_the_image_is_well_formed_and_a_hostile_name_is_text_in_it() -> None:
    content = report(*KEPT)
    content["subjects"][0] |= {"version": EVIL}
    root = ET.fromstring(badge(content, content["subjects"][0]))
    assert root.get("role") == "img"
    assert root.get("aria-label") == root.findtext(f"{SVG}title")
    assert '</title><script>alert("1")</script>\\x1b\U0001f600&amp;\N{REPLACEMENT CHARACTER}' in root.get("aria-label")
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags == {"svg", "title", "clipPath", "rect", "g", "text"}
    assert [text.text for text in root.iter(f"{SVG}text")] == ["bnspec SPEC 1.0", "level AAA, all profiles"]
    assert "://" not in badge(content, content["subjects"][0]).replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "..", ".", "", "con/../x", EVIL, "a" * 500, "Numpy", "exec:./port"]
)
def test_a_badge_stays_in_its_folder(name: str) -> None:
    made = badge_name(name)
    assert Path(made).name == made
    assert not made.startswith(".")
    assert len(made) < 200
    assert made != badge_name(name + "x")


def test_every_subject_that_ran_has_a_file_and_an_old_one_of_another_goes(tmp_path: Path) -> None:
    (tmp_path / "gone.svg").write_text("level AAA")
    rows = [MatrixRow("numpy", report(*KEPT)), MatrixRow("gone", reason="not installed")]
    assert write_badges(tmp_path, rows) == [tmp_path / "numpy.svg"]
    assert [path.name for path in tmp_path.iterdir()] == ["numpy.svg"]


def test_run_writes_the_badge_of_one_subject_and_refuses_two(tmp_path: Path) -> None:
    words = ["--clause", "BN-SHAPE-3", "--max-examples", "2", "--sizes", "none", "--badge", "b.svg"]
    done = command("run", "numpy", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    title = ET.fromstring((tmp_path / "b.svg").read_text()).findtext(f"{SVG}title")
    assert "no claim: only a part of the suite was run, by --clause, --max-examples" in title
    done = command("run", "numpy", "strict", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--badge is for one subject, and 2 are asked for" in done.stdout + done.stderr
