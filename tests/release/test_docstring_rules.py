"""The check of docstrings that `make lint` runs: what it finds, and what it leaves alone."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "docstrings.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docstrings", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(text: str, folder: str = "conformance") -> list[tuple[int, str]]:
    return [(line, problem.split(";")[0]) for line, problem in script().problems(text, folder)]


@pytest.mark.parametrize("word", ["What", "whether", "How", "Those", "``It``", "Nothing"])
def test_a_docstring_begins_with_no_such_word(word: str) -> None:
    assert found(f'import os\n\n\ndef f():\n    """{word} is there."""\n') == [
        (5, f"docstring begins with {word.strip('`')!r}")
    ]


def test_a_sentence_begins_with_no_such_word() -> None:
    text = '''class A:
    """Cache of checks, e.g. of dtypes. It is cleared by hand.

    What a check was told is kept. One more
    sentence. Those of others are not.

    Attributes
    ----------
    size : int
        Whether is fine here. Who reads it?
    """
'''
    assert found(text) == [
        (2, "sentence begins with 'It'"),
        (4, "sentence begins with 'What'"),
        (5, "sentence begins with 'Those'"),
        (10, "sentence begins with 'Who'"),
    ]


def test_plain_docstrings_and_code_in_them_are_left_alone() -> None:
    text = '''"""Index of items. Its keys are whole: what is not there is None.

    >>> What()
    It

Written as::

    It is code. What is
"""

def f():
    """Return whether it is there."""


def g():
    x = """What is this?"""  # It is no docstring. What a comment begins with is free.
'''
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "folder", "count"),
    [
        ("# the mail of the gang\n", "bnspec", 2),
        ('"""Return the hub."""\n', "backends", 1),
        ("# the seed's layer\n", "bnspec", 1),
        ("# the seed of the cases\n", "bnspec", 0),
        ("# the seed\n", "conformance", 0),
        ("hub = 'mail'  # see `hub`, github and mail_of()\n", "bnspec", 0),
    ],
)
def test_private_nouns(text: str, folder: str, count: int) -> None:
    assert len(found(text, folder)) == count


def test_main_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text('"""Cache of a."""\n')
    (tmp_path / "b.py").write_text('\n"""How b works."""\n')
    assert script().main([str(tmp_path / "a.py")]) == 0
    assert script().main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'b.py'}:2: docstring begins with 'How'")
