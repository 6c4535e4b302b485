"""A module that is named without its port: the error says what would have been right."""

import re
from pathlib import Path

import pytest

from bnspec_conformance.subjects import SubjectError, find_subject

PORT = "class Port:\n    def supports(self, case): ...\n    def run(self, case): ...\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("named_object", PORT + "port = Port()\n", "Did you mean named_object:port?"),
        ("named_class", PORT, "Did you mean named_class:Port?"),
        ("named_two", PORT + "a, b, _hidden = Port(), Port(), Port()\n", "Did you mean named_two:a or named_two:b?"),
        ("named_none", "x = 1\n", "nothing in it has supports(case) and run(case)"),
        ("named_foreign", "from bnspec_conformance import Subject\n", "nothing in it has supports(case)"),
        ("named_broken", "import no_such_module\n", "does not import: ModuleNotFoundError: No module named"),
    ],
)
def test_a_module_of_this_folder_is_looked_into(folder: Path, name: str, text: str, said: str) -> None:
    (folder / f"{name}.py").write_text(text)
    with pytest.raises(SubjectError, match=re.escape(said)) as caught:
        find_subject(name)
    assert str(caught.value).startswith(f"unknown subject '{name}'; expected one of ")


@pytest.mark.parametrize("name", ["no_such_module", "json", "../x", "a b", "", "no.such", "\x1b[2J"])
def test_other_names_get_no_suggestion_and_nothing_is_imported(name: str) -> None:
    with pytest.raises(SubjectError) as caught:
        find_subject(name)
    assert "module:attribute, or exec:PROGRAM, or onnx:FILE" in str(caught.value)
    assert str(caught.value).endswith("NAME@key=value.")
