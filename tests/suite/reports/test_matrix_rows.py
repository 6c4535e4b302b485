"""Rows of the matrix that are kept in a folder."""

from pathlib import Path

import pytest

from bnspec_conformance.matrix.kept_rows import keep, kept
from bnspec_conformance.matrix.row import MatrixRow

ROW = MatrixRow("exec:./port --fast", {"checks": [{"outcome": "passed"}]}, [{"verdict": "same"}], "", 1.5)


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    keep(tmp_path / "rows", ROW, ["--seed", "0"])
    assert kept(tmp_path / "rows", ROW.subject, ["--seed", "0"]) == ROW


def test_another_question_or_subject_has_no_row(tmp_path: Path) -> None:
    keep(tmp_path, ROW, ["--seed", "0"])
    assert kept(tmp_path, ROW.subject, ["--seed", "1"]) is None
    assert kept(tmp_path, "exec:./port", ["--seed", "0"]) is None


def test_a_changed_file_of_waivers_asks_anew(tmp_path: Path) -> None:
    waivers = tmp_path / "known.toml"
    waivers.write_text("a")
    keep(tmp_path, ROW, ["--waivers", str(waivers)])
    assert kept(tmp_path, ROW.subject, ["--waivers", str(waivers)]) == ROW
    waivers.write_text("b")
    assert kept(tmp_path, ROW.subject, ["--waivers", str(waivers)]) is None


def test_a_subject_that_did_not_run_is_asked_again(tmp_path: Path) -> None:
    keep(tmp_path, MatrixRow("gone", reason="not installed"), [])
    assert kept(tmp_path, "gone", []) is None


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    keep(tmp_path, ROW, [])
    (path,) = tmp_path.glob("*.json")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"is no kept row .* remove it"):
        kept(tmp_path, ROW.subject, [])
