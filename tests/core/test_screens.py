"""Streams that are closed, full or not read, and texts that would steer a terminal."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bnspec._cli
from bnspec._printable import printable
from bnspec._screen import Screen, command
from bnspec_conformance import cli
from bnspec_conformance.cases.codecs.codec import BadData, array_from_json
from bnspec_conformance.trials.record import Record

BOTH = {
    "bnspec": ("import sys; from bnspec._cli import main; sys.exit(main())", ["spec"]),
    "bnspec-conformance": ("import sys; from bnspec_conformance.cli import main; sys.exit(main())", ["list"]),
}
ODD = "a\x1b]0;owned\x07b\x9b31mc\u202ed\u2066e\ud800f\x08\x7f\u2028g\rh"


def test_what_would_steer_a_terminal_becomes_its_escape() -> None:
    shown = printable(ODD)
    assert shown == r"a\x1b]0;owned\x07b\x9b31mc\u202ed\u2066e\ud800f\x08\x7f\u2028g\rh"
    assert printable("a\tb\nc\r\n") == "a\tb\nc\n"
    assert printable("a\tb\n", lines=False) == r"a\tb\n"
    for plain in ("γ·(x − μ) ≥ 0, Ü, 中, עברית, 👩\u200d🔬", ""):
        assert printable(plain) == plain


def test_a_record_holds_no_control_characters_but_keeps_its_data() -> None:
    violation = {"problem": ODD, "script": "\x1b", "drawn": {"kind": "plain", "value": "\x1b"}, "clauses": ["BN-RUN-1"]}
    record = Record("c", ("BN-RUN-1",), ODD, "failed", 0.0, reason=ODD, violation=violation)
    assert record.subject == record.reason == printable(ODD)
    assert record.violation == violation | {"problem": printable(ODD)}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_pass_on_a_terminal_and_titles_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("PY_COLORS", raising=False)
    text = "\x1b[1;31mred\x1b[0m\x1b[2K\x1b[?25l \x1b]0;title\x07 \x1bc"
    terminal, file = Terminal(), io.StringIO()
    Screen(terminal).write(text)
    Screen(file).write(text)
    assert terminal.getvalue() == "\x1b[1;31mred\x1b[0m\x1b[2K\x1b[?25l \\x1b]0;title\\x07 \\x1bc"
    assert "\x1b" not in file.getvalue()


def test_what_an_encoding_lacks_becomes_its_escape() -> None:
    held = io.BytesIO()
    stream = Screen(io.TextIOWrapper(held, encoding="ascii"))
    stream.write("γ")
    stream.flush()
    assert held.getvalue() == rb"\u03b3"


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 2), (errno.EPIPE, 0)])
def test_a_stream_that_fails_is_told_once(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, os.strerror(number))

    def body() -> int:
        print("one")
        print("two")
        return 0

    monkeypatch.setattr(sys, "stdout", Failing())
    assert command("bnspec", body) == status
    told = capsys.readouterr().err
    assert told == ("bnspec: the standard output cannot be written: No space left on device\n" if status else "")


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (KeyboardInterrupt(), "bnspec: interrupted", 130),
        (MemoryError("9 EiB"), "bnspec: there is not enough memory. 9 EiB", 2),
        (FileNotFoundError(2, "No such file or directory", "x"), "bnspec: x: No such file or directory", 2),
        (OSError(28, "No space left on device"), "bnspec: No space left on device", 2),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    error: BaseException, said: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> int:
        raise error

    assert command("bnspec", body) == status
    assert capsys.readouterr().err == said + "\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("redirection", "status"),
    [
        (">&-", 0),
        ("2>&-", 0),
        ("<&-", 0),
        (">&- 2>&- <&-", 0),
        (">/dev/full", 2),
        ("2>/dev/full", 0),
        (">/dev/full 2>/dev/full", 2),
    ],
)
def test_closed_and_full_streams_are_no_traceback(name: str, redirection: str, status: int, tmp_path: Path) -> None:
    code, words = BOTH[name]
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {" ".join(words)} {redirection}', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if status and "2>" not in redirection:
        assert done.stderr == f"{name}: the standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("name", BOTH)
def test_a_reader_that_has_seen_enough_is_no_error(name: str) -> None:
    code, words = BOTH[name]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == ("", 0)


# Files and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["\x1b[31mx", "\udcff", "\u202ex", "a\nb", "[bold]x[/bold]"])
def test_odd_words_are_refused_in_plain_ones(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = [
        (cli.main, ["explain", word]),
        (cli.main, ["replay", word]),
        (cli.main, ["diff", word, word]),
        (cli.main, ["probe", word]),
        (cli.main, ["probe", f"{word}:{word}"]),
        (cli.main, ["vectors", "verify", word, word]),
        (cli.main, ["new-port", word]),
        (bnspec._cli.main, ["spec", word]),
    ]
    for main, words in calls:
        assert main(words) == 2, words
        said = capsys.readouterr()
        assert said.err
        for text in said:
            assert printable(text) == text
            assert "Traceback" not in text


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text", [f"a = {DEEP}", f"waiver = {DEEP}", "a." * 5000 + "b = 1", f"a = {'9' * 5000}", "\x00"]
)
def test_odd_waivers_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.toml").write_text(text)
    words = ["run", "numpy", "--waivers", str(tmp_path / "w.toml"), "--clause", "BN-RUN-1"]
    assert cli.main(words) == 2
    said = "".join(capsys.readouterr())
    assert "w.toml" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("shape", [[10**29], [0, 10**29], [2**62, 4], [0, 2**62, 2**62], [2**63], [1] * 100])
def test_extents_that_no_array_has_are_refused(shape: list[int]) -> None:
    with pytest.raises(BadData, match="an array has"):
        array_from_json({"dtype": "float32", "shape": shape, "data": ""})


def test_a_report_of_odd_numbers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (DEEP, '{"checks": ' + "9" * 5000 + "}", json.dumps({"checks": "\ud800"}), '{"checks":[' * 900):
        (tmp_path / "r.json").write_text(text)
        for words in (["replay"], ["diff", str(tmp_path / "r.json")]):
            assert cli.main([*words, str(tmp_path / "r.json")]) == 2
            assert "r.json is no" in capsys.readouterr().err
